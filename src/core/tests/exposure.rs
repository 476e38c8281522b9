//! Callers from outside the mesh that can never speak its mutual TLS, and what lets them in.

use meshrollout_core::exposure::{
    Caller, Check, Dialled, Entrance, Inbound, IngressController, Opener, Opening, Scheduled,
};
use meshrollout_core::finding::{Code, Subject};
use meshrollout_core::gate::Evaluation;
use meshrollout_core::ident::{Host, Labels, Namespace, Port, WorkloadRef};
use meshrollout_core::injection::Template;
use meshrollout_core::mode::Mode;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::testing::{World, at, seconds};
use meshrollout_core::waiver::{Answer, Exception};
use meshrollout_core::workload::{NamespaceFacts, Phase, Proxy, Workload};
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
        (Caller::Ingress(controller("k8s.io/ingress-nginx")), Code::IngressWithoutProxy),
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

/// The controller of class `nginx`, whoever that is.
fn controller(name: &str) -> IngressController {
    IngressController {
        class: Some("nginx".into()),
        name: Some(name.into()),
        through_service: false,
    }
}

/// A shop with an Ingress of this controller, and `front` as the pods of this name.
fn routed(controller: IngressController, pods: &'static str) -> World {
    shop(|world| {
        world.entrance(Caller::Ingress(controller), "catalog");
        world.edit_pods("front", |pod| {
            pod.labels =
                Arc::new([("app.kubernetes.io/name", pods), ("app", pods)].into_iter().collect());
        });
    })
}

#[test]
fn an_ingress_is_no_obstacle_where_its_controller_has_a_sidecar_and_calls_the_service() {
    let nginx = || controller("k8s.io/ingress-nginx");
    let through = || IngressController { through_service: true, ..nginx() };
    let mut world = routed(through(), "ingress-nginx");
    world.visits(LONG);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    held_by(routed(nginx(), "ingress-nginx"), Code::IngressWithoutProxy);
    let mut bare = routed(through(), "ingress-nginx");
    bare.edit_pods("front", |pod| pod.proxy = Proxy::None);
    held_by(bare, Code::IngressWithoutProxy);
    let mut ambient = routed(through(), "ingress-nginx");
    ambient.edit_pods("front", |pod| pod.proxy = Proxy::Ambient);
    held_by(ambient, Code::IngressWithoutProxy);
}

/// An application may be named as a class is, or as a part of its controller's name.
#[test]
fn no_other_application_speaks_for_an_ingress_controller() {
    for (of, pods) in [
        ("k8s.io/ingress-nginx", "nginx"),
        ("nginx.org/ingress-controller", "nginx"),
        ("example.com/ingress", "ingress"),
    ] {
        let through = IngressController { through_service: true, ..controller(of) };
        held_by(routed(through, pods), Code::IngressWithoutProxy);
    }
    let nobody = IngressController { class: None, name: None, through_service: true };
    held_by(routed(nobody, "default"), Code::IngressWithoutProxy);
}

/// Whom it dials is not read, so it is asked of the traffic, where there was somebody to hear it.
#[test]
fn a_controller_with_a_sidecar_that_may_dial_pods_is_an_obstacle_where_nobody_listened() {
    let traefik = || routed(controller("traefik.io/ingress-controller"), "traefik");
    let mut heard = traefik();
    heard.visits(LONG);
    assert_eq!(heard.mode("catalog"), Some(Mode::Strict));
    let mut unheard = traefik();
    unheard.telemetry.callers = Reading::Unknown(Cause::NotRead("callers".into()));
    held_by(unheard, Code::IngressWithoutProxy);
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

/// What the gates say of `catalog` now.
fn judged(world: &World) -> Evaluation {
    let facts = &world.snapshot.namespaces[&Namespace::from("catalog")];
    Evaluation::run(&world.plan, &world.snapshot, facts)
}

/// A webhook is called when the first of its pods is up again.
#[test]
fn pods_that_are_still_to_come_are_refused_as_well() {
    let admitting = |change: &dyn Fn(&mut Workload)| {
        let world = shop(|world| {
            world.entrance(Caller::Admission, "catalog");
            let edit =
                |facts: &mut NamespaceFacts| change(facts.workloads.values_mut().next().unwrap());
            world.edit("catalog", edit);
        });
        judged(&world).has(Code::WebhookBackend)
    };
    let each = |phase: Phase| {
        move |workload: &mut Workload| {
            workload.template = None;
            workload.pods.iter_mut().for_each(|pod| pod.phase = phase);
        }
    };
    assert!(admitting(&|_| ()));
    assert!(admitting(&each(Phase::Pending)));
    assert!(!admitting(&each(Phase::Completed)));
    let scaled_to = |labels: Labels| {
        move |workload: &mut Workload| {
            workload.pods.clear();
            workload.template = Some(Template { labels: labels.clone(), ..Template::default() });
        }
    };
    let own = || Labels::default().with("app", "catalog");
    assert!(admitting(&scaled_to(own())));
    assert!(!admitting(&scaled_to(own().with("sidecar.istio.io/inject", "false"))));
    assert!(!admitting(
        &|workload| *workload = Workload { pods: vec![], template: None, ..workload.clone() }
    ));
}

#[test]
fn holds_while_the_endpoints_of_a_service_that_is_called_are_not_known() {
    let unselected = |external: Option<Host>| {
        shop(|world| {
            world.entrance(Caller::Admission, "catalog");
            world.edit("catalog", |facts| {
                facts.services[0].selector = Labels::default();
                facts.services[0].external = external;
            });
        })
    };
    assert!(!judged(&unselected(Some(Host::new("example.com")))).has(Code::CallersUnknown));
    let world = unselected(None);
    let evaluation = judged(&world);
    let found = evaluation.obstacles().into_iter().find(|one| one.code == Code::CallersUnknown);
    assert_eq!(found.unwrap().subject, Subject::new("Service", &"catalog".into(), "catalog"));
    held_by(world, Code::CallersUnknown);
}

/// With the older policy gone the caller would be refused: both are said at once.
#[test]
fn a_policy_that_stands_before_ours_hides_no_caller() {
    let mut world = shop(|world| world.entrance(Caller::Admission, "catalog"));
    world.set_policy("catalog", "before", Mode::Permissive, None);
    let evaluation = judged(&world);
    assert!(evaluation.has(Code::PolicyShadowed) && evaluation.has(Code::WebhookBackend));
}

/// It is there so seldom that nobody has seen what it sends.
#[test]
fn holds_for_work_by_a_schedule_that_rests_for_longer_than_anybody_looked() {
    let work = |rests: Option<i64>, home: &str, labels: Labels| {
        shop(|world| {
            let template = Template { labels, ..Template::default() };
            let rests = rests.map(seconds);
            let entrance = Entrance {
                caller: Caller::Scheduled(Arc::new(Scheduled { rests, template })),
                declared_by: Subject::new("CronJob", &home.into(), "report"),
                detail: String::new(),
                namespace: "catalog".into(),
                service: "catalog".into(),
                port: Dialled::Any,
            };
            world.snapshot.entrances = Reading::Known(Arc::new(vec![entrance]));
        })
    };
    let bare = || Labels::default().with("sidecar.istio.io/inject", "false");
    // The look-back is an hour.
    for rests in [None, Some(7200), Some(3599)] {
        held_by(work(rests, "front", bare()), Code::RareCaller);
        held_by(work(rests, "elsewhere", Labels::default()), Code::RareCaller);
        held_by(
            work(rests, "front", bare().with("istio.io/dataplane-mode", "ambient")),
            Code::RareCaller,
        );
    }
    let world = work(None, "front", bare());
    let evaluation = judged(&world);
    let found = evaluation.obstacles().into_iter().find(|one| one.code == Code::RareCaller);
    assert_eq!(found.unwrap().subject, Subject::new("CronJob", &"front".into(), "report"));
    for mut passes in [work(Some(1800), "front", bare()), work(None, "front", Labels::default())] {
        passes.visits(LONG);
        assert_eq!(passes.mode("catalog"), Some(Mode::Strict));
    }
    let mut excepted = work(None, "front", bare());
    excepted.set_workload_policy("catalog", "port", 8080, Mode::Permissive);
    excepted.visits(LONG);
    assert_eq!(excepted.mode("catalog"), Some(Mode::Strict));
}
