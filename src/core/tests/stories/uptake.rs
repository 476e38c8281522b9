//! Stories of proxies that take what is written, late or never, and of nobody telling.

use meshrollout_core::decide::{Decision, State};
use meshrollout_core::explain;
use meshrollout_core::finding::{Code, Level};
use meshrollout_core::gate::{Gate, Verdict};
use meshrollout_core::ident::Namespace;
use meshrollout_core::mode::Mode;
use meshrollout_core::plan::{Stage, Targets};
use meshrollout_core::proxies::{Answer, Listeners};
use meshrollout_core::reading::Reading;
use meshrollout_core::testing::{SHOP, World, at, seconds};
use std::collections::BTreeMap;

/// Every sidecar was sent its listeners at this second, and answered this.
fn told(world: &mut World, sent: i64, answer: Answer) {
    let namespaces = world.snapshot.namespaces.values();
    let pods = namespaces.flat_map(|facts| facts.workloads.values()).flat_map(|workload| {
        workload.pods.iter().map(|pod| workload.pod_ref(pod)).collect::<Vec<_>>()
    });
    let listeners = Listeners { sent: at(sent), answer };
    world.telemetry.listeners = Reading::Known(pods.map(|pod| (pod, listeners.clone())).collect());
}

fn taken(world: &mut World) {
    let now = world.now;
    told(world, now, Answer::Acknowledged);
}

/// The one finding about proxies in a namespace.
fn found(decision: &Decision, namespace: &str) -> Option<(Level, String)> {
    let standing = &decision.namespaces[&namespace.into()];
    let all = standing.findings.iter().chain(standing.evaluation.findings());
    let mut here = all.filter(|found| found.code == Code::ProxyNotSynced);
    let first = here.next().map(|found| (found.level, found.message.clone()));
    assert_eq!(here.next(), None);
    first
}

#[test]
fn a_sidecar_that_would_not_take_a_write_holds() {
    let mut world = World::shop();
    world.plan.timing.acknowledgement = seconds(60);
    world.now = 1000;
    let proxies = |world: &World| {
        let (_, decision) = world.look();
        let verdict = decision.namespaces[&"catalog".into()].evaluation.verdict_of(Gate::Proxies);
        (verdict, found(&decision, "catalog").map(|(_, message)| message))
    };
    assert_eq!(proxies(&world), (Verdict::Pass, None), "nobody tells");
    for (sent, answer, said) in [
        (0, Answer::Acknowledged, None),
        (940, Answer::Awaited, None),
        (939, Answer::Awaited, Some("has not answered what was sent at 2026-09-21T14:28:59Z")),
        (1000, Answer::Rejected("bad port".into()), Some("rejects it: bad port")),
    ] {
        told(&mut world, sent, answer);
        let (verdict, message) = proxies(&world);
        let wanted = if said.is_some() { Verdict::Hold } else { Verdict::Pass };
        assert_eq!(verdict, wanted, "{message:?}");
        assert!(message.as_deref().unwrap_or("").ends_with(said.unwrap_or("")), "{message:?}");
    }
    world.telemetry.listeners = Reading::Known(BTreeMap::new());
    let (verdict, message) = proxies(&world);
    assert_eq!(verdict, Verdict::Hold);
    assert!(message.unwrap().ends_with("is connected to no control plane"));
    // One that is not Ready yet is on its way.
    world.edit_pods("catalog", |pod| pod.ready_since = None);
    assert_eq!(proxies(&world).0, Verdict::Pass);
}

#[test]
fn a_bake_begins_when_the_proxies_have_taken_the_switch() {
    for (tell, enforced_at) in [(true, 90 + 30 + 60), (false, 90 + 300 + 60)] {
        let mut world = World::shop();
        world.plan.timing.acknowledgement = seconds(300);
        loop {
            if tell {
                taken(&mut world);
            }
            let decision = world.visit();
            if decision.namespaces[&"catalog".into()].state == State::Enforced {
                break;
            }
            world.now += 30;
            assert!(world.now < 1000);
        }
        assert_eq!(world.now, enforced_at, "told: {tell}");
    }
}

#[test]
fn a_switch_that_was_not_taken_does_not_bake() {
    let mut world = World::shop();
    world.plan.timing.acknowledgement = seconds(120);
    told(&mut world, 0, Answer::Acknowledged);
    let early = world.visits(7);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    assert_eq!(found(&early, "catalog"), None, "it may still come");
    let decision = world.visits(20);
    assert_eq!(decision.namespaces[&"catalog".into()].state, State::Watching);
    let (level, message) = found(&decision, "catalog").unwrap();
    assert_eq!(level, Level::Hold);
    assert!(message.starts_with("STRICT was not taken by 2 sidecars of catalog: "), "{message}");
    assert!(message.ends_with("was not sent it"), "{message}");
    // Whoever tells nothing at all any more is waited for no longer than before.
    taken(&mut world);
    let decision = world.visits(3);
    assert_eq!(decision.namespaces[&"catalog".into()].state, State::Enforced);
}

fn one_stage(at_one_time: usize) -> World {
    let mut world = World::shop();
    let both = Targets::Named(SHOP.map(Into::into).into());
    let first = world.plan.stages.remove(0);
    world.plan.stages =
        vec![Stage { targets: both, max_concurrent: at_one_time, bake: seconds(600), ..first }];
    world
}

#[test]
fn the_next_namespace_goes_when_the_proxies_have_taken_the_one_before() {
    let modes = |world: &World| SHOP.map(|name| world.mode(name).unwrap());
    let (strict, permissive) = (Mode::Strict, Mode::Permissive);
    for (at_one_time, answer, then) in [
        (2, Some(Answer::Acknowledged), strict),
        (1, Some(Answer::Acknowledged), permissive),
        (2, Some(Answer::Awaited), permissive),
        (2, None, permissive),
    ] {
        let mut world = one_stage(at_one_time);
        if answer.is_some() {
            taken(&mut world);
        }
        let decision = world.visits(4);
        assert_eq!(modes(&world), [strict, permissive], "never two at once");
        let said = found(&decision, "orders");
        assert_eq!(said.is_some(), answer.is_none(), "{said:?}");
        if let Some(answer) = &answer {
            let now = world.now;
            told(&mut world, now, answer.clone());
        }
        world.visit();
        assert_eq!(modes(&world), [strict, then], "{at_one_time} {answer:?}");
    }
}

#[test]
fn a_rollback_that_was_not_taken_is_said() {
    let mut world = World::shop();
    world.plan.timing.acknowledgement = seconds(60);
    taken(&mut world);
    world.visits(4);
    world.failures("catalog", 2.0);
    world.visit();
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    let said = |world: &mut World| {
        let decision = world.visits(3);
        let standing = &decision.namespaces[&"catalog".into()];
        assert_eq!(standing.state, State::RolledBack);
        let mut here = standing.findings.iter();
        here.find(|found| found.code == Code::RollbackNotEffective).map(|it| it.message.clone())
    };
    world.now += 30;
    let message = said(&mut world).unwrap();
    assert!(
        message.starts_with("the rollback was not taken by 2 sidecars of catalog: "),
        "{message}"
    );
    taken(&mut world);
    assert_eq!(said(&mut world), None);
}

#[test]
fn who_waits_for_the_namespace_before_says_so_and_names_no_time_that_is_past() {
    let mut world = one_stage(1);
    taken(&mut world);
    let decision = world.visits(6);
    let waits = Namespace::from("orders");
    let standing = &decision.namespaces[&waits];
    assert_eq!(standing.state, State::Proving);
    let said = explain::where_it_stands(&world.plan, &decision, &waits, standing);
    assert!(said.ends_with("; it waits for the bake of catalog"), "{said}");
}
