//! Callers from outside the mesh that can never speak its mutual TLS, and what lets them in.

use meshrollout_core::exposure::{Caller, Check, Inbound, Opener, Opening};
use meshrollout_core::finding::Code;
use meshrollout_core::ident::{Port, WorkloadRef};
use meshrollout_core::mode::Mode;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::testing::{World, at};
use meshrollout_core::waiver::{Answer, Exception};
use meshrollout_core::workload::Proxy;
use std::sync::Arc;

/// Enough visits for a whole rollout of the shop.
const LONG: usize = 24;

fn shop(change: impl FnOnce(&mut World)) -> World {
    let mut world = World::shop();
    change(&mut world);
    world
}

/// The world never goes STRICT, and names this code while it waits.
#[track_caller]
fn held_by(mut world: World, code: Code) {
    let decision = world.visits(LONG);
    assert_ne!(world.mode("catalog"), Some(Mode::Strict), "went STRICT in spite of {code}");
    let codes: Vec<_> = decision.obstacles().iter().map(|found| found.code).collect();
    assert!(codes.contains(&code), "{code} is not among {codes:?}");
}

#[test]
fn holds_while_somebody_outside_the_mesh_is_led_in_unless_that_very_port_is_excepted() {
    for (caller, code) in [
        (Caller::Admission, Code::WebhookBackend),
        (Caller::Aggregation, Code::ApiServiceBackend),
        (Caller::Conversion, Code::ConversionBackend),
        (Caller::Ingress("nginx".into()), Code::IngressWithoutProxy),
    ] {
        let led = || shop(|world| world.entrance(caller.clone(), "catalog"));
        held_by(led(), code);
        let mut other = led();
        other.set_workload_policy("catalog", "other", 9090, Mode::Permissive);
        held_by(other, code);
        let mut excepted = led();
        excepted.set_workload_policy("catalog", "port", 8080, Mode::Permissive);
        excepted.visits(LONG);
        assert_eq!(excepted.mode("catalog"), Some(Mode::Strict), "{code}");
    }
}

#[test]
fn holds_while_it_is_not_known_who_is_led_in() {
    let unread = Cause::NotRead("APIServices".into());
    held_by(shop(|w| w.snapshot.entrances = Reading::Unknown(unread)), Code::CallersUnknown);
}

#[test]
fn an_ingress_whose_controller_has_a_sidecar_is_no_obstacle() {
    let mut world = shop(|world| world.entrance(Caller::Ingress("class front".into()), "catalog"));
    world.visits(LONG);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    held_by(
        shop(|world| {
            world.entrance(Caller::Ingress("class front".into()), "catalog");
            world.edit_pods("front", |pod| pod.proxy = Proxy::None);
        }),
        Code::IngressWithoutProxy,
    );
}

#[test]
fn holds_while_the_kubelet_calls_the_application_itself() {
    let opened = |by: Opener, inbound: Inbound| {
        shop(|world| {
            let opening = Opening { by, container: "app".into(), port: Port(8080) };
            let inbound = Inbound { openings: vec![opening], ..inbound.clone() };
            world.edit_pods("catalog", |pod| pod.inbound = Arc::new(inbound.clone()));
        })
    };
    let probe = Opener::Probe(Check::Liveness);
    held_by(opened(probe, Inbound::default()), Code::ProbeNotRewritten);
    held_by(opened(Opener::Hook, Inbound::default()), Code::LifecycleHookNotRewritten);
    held_by(opened(Opener::Scraper, Inbound::default()), Code::ScrapedAppPort);
    // What the sidecar does not capture it does not refuse; who only connects is answered.
    let uncaptured = Inbound { but: [Port(8080)].into(), ..Inbound::default() };
    for mut world in [
        opened(probe, uncaptured),
        opened(Opener::Connect(Check::Readiness), Inbound::default()),
        opened(Opener::HostPort(Port(80)), Inbound::default()),
    ] {
        world.visits(LONG);
        assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    }
}

/// A declaration lets nobody in: the policy that it speaks of must be there.
#[test]
fn an_exception_without_its_policy_hides_no_plaintext() {
    for ports in [vec![], vec![8080]] {
        let world = || {
            shop(|world| {
                world.plaintext(Some(("legacy", "batch")), "catalog");
                world.plan.waivers.exceptions.push(Exception {
                    workload: WorkloadRef::new("catalog", "Deployment", "catalog"),
                    ports: ports.iter().copied().map(Port).collect(),
                    answer: Answer {
                        owner: "platform".into(),
                        reason: "legacy".into(),
                        expires: at(1_000_000),
                    },
                });
            })
        };
        held_by(world(), Code::PlaintextSeen);
        let mut excepted = world();
        excepted.set_workload_policy("catalog", "port", 8080, Mode::Permissive);
        // One port of the whole workload is not the workload.
        let expected = if ports.is_empty() { Code::PlaintextSeen } else { Code::PortUnknown };
        held_by(excepted, expected);
    }
}
