//! Stories of a rollout from its first stage to its last, and of what holds it.

use super::{LONG, baking, held_by, shop};
use meshrollout_core::action::Action;
use meshrollout_core::client_tls::TlsMode;
use meshrollout_core::condition::{self, Status};
use meshrollout_core::decide::State;
use meshrollout_core::finding::Code;
use meshrollout_core::gate::{Gate, Verdict};
use meshrollout_core::ident::Labels;
use meshrollout_core::mode::{Declared, Mode};
use meshrollout_core::plan::{Mission, Targets};
use meshrollout_core::policy::Policy;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::snapshot::Source;
use meshrollout_core::testing::{World, at, seconds};
use meshrollout_core::traffic::Presence;
use meshrollout_core::workload::Proxy;

#[track_caller]
fn ready(world: &World) -> (Status, &'static str) {
    let (_, decision) = world.look();
    let conditions = condition::of(&world.plan, &decision, &[], at(world.now));
    assert_eq!(conditions.len(), 6);
    let ready = conditions.iter().find(|one| one.kind == "Ready").expect("always there");
    (ready.status, ready.reason)
}

#[test]
fn a_clean_shop_goes_strict_one_stage_at_a_time() {
    let mut world = World::shop();
    world.visit();
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    assert_eq!(world.mode("orders"), None, "the second stage waits untouched");
    world.now += 30;
    world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "the soak is not over");
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    assert_eq!(ready(&world), (Status::False, "Watching"));
    world.visits(1);
    assert_ne!(world.mode("orders"), Some(Mode::Strict), "the first stage still bakes");
    world.visits(LONG);
    assert_eq!(world.mode("orders"), Some(Mode::Strict));
    assert_eq!(ready(&world), (Status::True, "Enforced"));
}

#[test]
fn nothing_is_written_when_all_is_enforced() {
    let mut world = World::shop();
    world.visits(LONG);
    for _ in 0..10 {
        assert_eq!(world.visits(1).actions, []);
    }
}

#[test]
fn holds_while_one_pod_has_no_proxy() {
    held_by(
        shop(|world| world.edit_pods("catalog", |pod| pod.proxy = Proxy::None)),
        Code::PodWithoutProxy,
    );
}

#[test]
fn holds_while_new_pods_would_come_without_a_proxy() {
    let bare = |world: &mut World| world.edit("catalog", |facts| facts.labels = Labels::default());
    held_by(shop(bare), Code::NamespaceNotInjected);
}

#[test]
fn holds_while_injected_pods_do_not_announce_tls() {
    let proxy = Proxy::Sidecar { revision: Some("default".into()), announces_tls: false };
    held_by(
        shop(|world| world.edit_pods("catalog", |pod| pod.proxy = proxy.clone())),
        Code::TlsModeLabelMissing,
    );
}

#[test]
fn holds_for_ambient_pods_rather_than_guess() {
    held_by(
        shop(|world| world.edit_pods("catalog", |pod| pod.proxy = Proxy::Ambient)),
        Code::DataplaneNotCovered,
    );
}

#[test]
fn plaintext_is_named_and_its_end_starts_the_soak_from_zero() {
    let mut world = World::shop();
    world.visits(3);
    world.plaintext(Some(("legacy", "batch")), "catalog");
    let decision = world.visits(1);
    let found = decision.obstacles().first().expect("held").to_owned().clone();
    assert_eq!(found.code, Code::PlaintextSeen);
    assert!(found.message.contains("legacy/batch"), "{}", found.message);
    world.telemetry.callers = Reading::Known(vec![]);
    world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "the soak began anew");
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
}

#[test]
fn holds_for_plaintext_of_an_unnamed_client() {
    held_by(shop(|world| world.plaintext(None, "catalog")), Code::PlaintextSourceUnknown);
}

#[test]
fn each_way_of_not_knowing_holds_with_its_own_reason() {
    let causes = [
        (Cause::SourceUnavailable("connection refused".into()), Code::SourceUnavailable),
        (Cause::PartialAnswer("store down".into()), Code::PartialAnswer),
        (Cause::Ambiguous("two series".into()), Code::AmbiguousSeries),
    ];
    for (cause, code) in causes {
        let unknown = cause.clone();
        held_by(shop(|w| w.telemetry.callers = Reading::Unknown(unknown)), code);
        let unknown = cause.clone();
        held_by(shop(|w| w.telemetry.presence = Reading::Unknown(unknown)), code);
        held_by(shop(|w| w.telemetry.mutual = Reading::Unknown(cause)), code);
    }
}

#[test]
fn holds_while_the_clocks_differ() {
    held_by(shop(|world| world.telemetry.skew = Reading::Known(seconds(6))), Code::ClockSkew);
}

#[test]
fn by_a_wrong_clock_nobody_is_called_silent() {
    let mut world = shop(|world| {
        world.telemetry.skew = Reading::Known(seconds(600));
        if let Reading::Known(presence) = &mut world.telemetry.presence {
            for reports in presence.values_mut() {
                reports.last -= seconds(600);
                reports.first -= seconds(600);
            }
        }
    });
    let decision = world.visits(LONG);
    let codes: Vec<_> = decision.obstacles().iter().map(|found| found.code).collect();
    assert!(codes.contains(&Code::ClockSkew), "{codes:?}");
    assert!(!codes.contains(&Code::SeriesMissing), "{codes:?}");
    assert_ne!(world.mode("catalog"), Some(Mode::Strict));
}

#[test]
fn holds_while_a_watch_is_stale() {
    let stale = Cause::StaleWatch { kind: "Pod".into(), since: None };
    held_by(shop(|world| world.snapshot.stale = vec![stale]), Code::StaleWatch);
}

#[test]
fn holds_while_a_pod_does_not_report() {
    held_by(
        shop(|world| {
            if let Reading::Known(presence) = &mut world.telemetry.presence {
                let pod = presence.keys().next().expect("a pod").clone();
                presence.remove(&pod);
            }
        }),
        Code::SeriesMissing,
    );
}

#[test]
fn holds_for_a_workload_that_nobody_called() {
    held_by(
        shop(|world| world.telemetry.mutual = Reading::Known(Default::default())),
        Code::NothingSeen,
    );
}

#[test]
fn a_workload_injected_minutes_ago_does_not_pass_a_longer_look_back() {
    let mut world = World::shop();
    world.plan.gates.lookback = seconds(7200);
    held_by(world, Code::WindowNotCovered);
}

#[test]
fn a_destination_rule_that_turns_tls_off_is_found_wherever_it_stands() {
    let host = "catalog.catalog.svc.cluster.local";
    for namespace in ["front", "catalog", "istio-system"] {
        for host in [host, "*.local", "*.catalog.svc.cluster.local"] {
            held_by(
                shop(|world| world.rule(namespace, host, TlsMode::Disable)),
                Code::ClientTlsDisabled,
            );
        }
    }
    held_by(shop(|world| world.rule("front", host, TlsMode::Simple)), Code::ClientTlsForeign);
}

#[test]
fn one_rule_is_one_obstacle_however_many_clients_it_misleads() {
    let mut world = World::shop();
    world.rule("catalog", "catalog.catalog.svc.cluster.local", TlsMode::Disable);
    let decision = world.visits(2);
    let found: Vec<_> = decision.obstacles().into_iter().collect();
    let [only] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(only.code, Code::ClientTlsDisabled);
    assert_eq!(only.evidence, ["in force for clients in namespace catalog, front"]);
}

#[test]
fn an_older_namespace_wide_policy_is_refused() {
    held_by(
        shop(|world| world.set_policy("catalog", "legacy", Mode::Permissive, None)),
        Code::PolicyOwnedByOther,
    );
}

#[test]
fn holds_while_rotation_fails_or_cannot_be_seen() {
    held_by(
        shop(|world| {
            if let Reading::Known(certificates) = &mut world.telemetry.certificates {
                certificates.values_mut().for_each(|one| one.remaining = seconds(3600));
            }
        }),
        Code::CertificateExpiring,
    );
    held_by(
        shop(|world| world.telemetry.certificates = Reading::Known(Default::default())),
        Code::CertificateUnknown,
    );
    held_by(
        shop(|world| {
            if let Reading::Known(plane) = &mut world.telemetry.control_plane {
                plane.unsigned = 1.0;
            }
        }),
        Code::SigningErrors,
    );
}

#[test]
fn nothing_is_switched_while_istiod_is_down() {
    held_by(
        shop(|world| {
            if let Reading::Known(plane) = &mut world.telemetry.control_plane {
                plane.instances = 0;
            }
        }),
        Code::ControlPlaneUnhealthy,
    );
}

#[test]
fn holds_when_nothing_would_show_harm() {
    held_by(
        shop(|world| {
            world.telemetry.refusals = Reading::Known(Default::default());
            world.telemetry.edges = Reading::Known(vec![]);
        }),
        Code::NoRefusalSignal,
    );
}

#[test]
fn while_no_proxy_reports_at_all_a_missing_signal_only_holds() {
    let world = shop(|world| {
        world.telemetry.refusals = Reading::Known(Default::default());
        world.telemetry.edges = Reading::Known(vec![]);
        world.telemetry.presence = Reading::Known(Default::default());
    });
    let (_, decision) = world.look();
    let evaluation = &decision.namespaces[&"catalog".into()].evaluation;
    assert_eq!(evaluation.verdict_of(Gate::RefusalSignal), Verdict::Hold);
}

#[test]
fn every_gate_is_evaluated_and_an_empty_evaluation_holds() {
    let (_, decision) = World::shop().look();
    let standing = decision.namespaces.values().next().expect("a namespace");
    for gate in Gate::ALL {
        assert_eq!(standing.evaluation.verdict_of(gate), Verdict::Pass, "{gate}");
    }
    assert_eq!(meshrollout_core::gate::Evaluation::default().verdict(), Verdict::Hold);
}

#[test]
fn hard_harm_rolls_back_at_once_and_halts_until_a_retry() {
    let mut world = baking();
    world.failures("catalog", 1.0);
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    world.visits(LONG);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "nobody asked for a retry");
    assert_eq!(ready(&world), (Status::False, "RolledBack"));
    assert_ne!(world.mode("orders"), Some(Mode::Strict));

    world.failures("catalog", 0.0);
    if let Reading::Known(edges) = &mut world.telemetry.edges {
        edges.iter_mut().for_each(|edge| edge.failures.0.clear());
    }
    world.plan.asked.retry = Some(at(world.now).to_string());
    world.visits(LONG * 2);
    assert_eq!(ready(&world), (Status::True, "Enforced"));
}

#[test]
fn rolling_back_works_with_the_metrics_source_down() {
    let mut world = baking();
    world.telemetry.callers = Reading::Unknown(Cause::SourceUnavailable("down".into()));
    world.telemetry.edges = Reading::Unknown(Cause::SourceUnavailable("down".into()));
    world.plan.asked.abort = Some("now".into());
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    assert_eq!(ready(&world), (Status::False, "Aborted"));
}

#[test]
fn the_bake_stands_still_while_nobody_can_see() {
    let mut world = baking();
    world.telemetry.edges = Reading::Unknown(Cause::SourceUnavailable("down".into()));
    let decision = world.visits(LONG);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict), "held, not rolled back");
    let catalog = &decision.namespaces[&"catalog".into()];
    assert_eq!(catalog.state, State::Watching, "time without evidence is no bake");
    assert_ne!(world.mode("orders"), Some(Mode::Strict), "nothing advances");
}

#[test]
fn evidence_lost_for_the_switched_namespace_alone_rolls_back() {
    let mut world = baking();
    if let Reading::Known(presence) = &mut world.telemetry.presence {
        presence.retain(|pod, _: &mut Presence| pod.namespace.as_str() != "catalog");
    }
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict), "once is not enough");
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

#[test]
fn pause_stops_new_steps_but_not_the_way_back() {
    let mut world = baking();
    world.plan.paused = true;
    world.visits(LONG);
    assert_ne!(world.mode("orders"), Some(Mode::Strict));
    let mut world = baking();
    world.plan.paused = true;
    world.failures("catalog", 1.0);
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

#[test]
fn an_observer_writes_nothing() {
    let mut world = World::shop();
    world.plan.action = Mission::Observe;
    world.visits(LONG);
    assert_eq!(world.mode("catalog"), None);
    assert_eq!(ready(&world), (Status::True, "Observing"));
}

#[test]
fn strict_is_never_decided_on_the_watches_alone() {
    let mut world = World::shop();
    world.snapshot.source = Source::Watches;
    let decision = world.visits(LONG);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    assert!(decision.namespaces.values().any(|one| one.state == State::Enforcing));
}

#[test]
fn drift_is_reported_with_a_name_and_never_fought() {
    let mut world = World::shop();
    world.visits(LONG);
    let noted = world.policy(&"catalog".into()).and_then(|policy| policy.ours.clone());
    world.set_policy("catalog", "default", Mode::Permissive, noted);
    let decision = world.visits(LONG);
    assert_eq!(decision.actions, []);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    assert_eq!(ready(&world), (Status::False, "PolicyDrifted"));
}

#[test]
fn the_root_namespace_is_refused_by_name_and_nothing_is_written() {
    let mut world = World::shop();
    world.plan.stages[0].targets = Targets::Named(["istio-system".into()].into());
    let decision = world.visits(LONG);
    assert!(decision.refused.iter().any(|one| one.code == Code::RootNamespaceInScope));
    assert_eq!(world.mode("orders"), None);
    let mut world = World::shop();
    world.snapshot.mesh = Reading::Unknown(Cause::NotRead("ConfigMap istio".into()));
    world.visits(LONG);
    assert_eq!(world.mode("catalog"), None, "any namespace could be the root");
}

#[test]
fn a_pin_that_is_made_again_is_soaked_again() {
    let mut world = World::shop();
    world.visits(3);
    world.delete_policy("catalog");
    world.plaintext(Some(("legacy", "batch")), "catalog");
    world.visits(1);
    world.telemetry = World::shop().telemetry;
    world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "what broke the soak is long gone");
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
}

#[test]
fn a_gap_between_evaluations_restarts_the_soak() {
    let mut world = World::shop();
    world.visits(3);
    world.now += 3600;
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

/// Both namespaces in one stage.
fn one_stage() -> World {
    let mut world = World::shop();
    world.plan.stages.truncate(1);
    world.plan.stages[0].targets = Targets::Named(["catalog".into(), "orders".into()].into());
    world
}

#[test]
fn a_rollback_halts_the_other_namespaces_of_its_stage() {
    let mut world = one_stage();
    world.visits(4);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    world.failures("catalog", 1.0);
    world.visits(LONG);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    assert_eq!(world.mode("orders"), Some(Mode::Permissive), "proven, and held all the same");
}

#[test]
fn an_abort_stops_a_stage_that_has_not_switched_yet() {
    let mut world = World::shop();
    world.visits(2);
    world.plan.asked.abort = Some("now".into());
    world.visits(LONG);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    assert_eq!(ready(&world), (Status::False, "Aborted"));
}

#[test]
fn a_namespace_that_joins_a_finished_stage_waits_for_the_one_in_flight() {
    let mut world = World::shop();
    world.edit("front", |facts| {
        facts.labels = facts.labels.clone().with("late", "yes");
    });
    // The second stage bakes for longer than this story lasts.
    world.plan.stages[1].bake = seconds(100_000);
    world.visits(LONG);
    assert_eq!(world.mode("orders"), Some(Mode::Strict));
    let Targets::Named(first) = &mut world.plan.stages[0].targets else { unreachable!() };
    first.insert("front".into());
    if let Reading::Known(edges) = &mut world.telemetry.edges {
        let mut into_front = edges[0].clone();
        into_front.destination = Some("front".into());
        edges.push(into_front);
    }
    let decision = world.visits(LONG);
    assert_eq!(decision.namespaces[&"front".into()].evaluation.verdict(), Verdict::Pass);
    assert_eq!(decision.current_stage, Some(0));
    assert_eq!(world.mode("front"), None, "one stage in flight (S6): not even a pin");
}

#[test]
fn nothing_is_pinned_where_a_pin_would_change_a_mode() {
    let mut disabled = World::shop();
    disabled.set_policy("istio-system", "mesh", Mode::Disable, None);
    let decision = disabled.visits(LONG);
    assert_eq!(disabled.mode("catalog"), None, "DISABLE is for a person to lift");
    assert!(decision.obstacles().iter().any(|found| found.code == Code::StartsAtDisable));

    // A mesh-wide STRICT with one workload left PERMISSIVE: our pin would open the others.
    let mut strict = World::shop();
    strict.set_policy("istio-system", "mesh", Mode::Strict, None);
    let workload = strict.snapshot.policies.of(&"istio-system".into())[0].clone();
    strict.snapshot.policies = strict.snapshot.policies.with(Policy {
        namespace: "catalog".into(),
        name: "one".into(),
        selector: Labels::from_iter([("app", "catalog")]),
        mode: Declared::Mode(Mode::Permissive),
        ..workload
    });
    strict.visits(LONG);
    assert_eq!(strict.mode("catalog"), None);
}

#[test]
fn yesterdays_clearance_opens_nothing() {
    let mut world = World::shop();
    world.visits(3);
    let (_, decision) = world.look();
    let Some(Action::EnforceStrict(clearance)) = decision.actions.first() else {
        panic!("the soak is over: {:?}", decision.actions)
    };
    // Two intervals of 30 s and one scrape of 15 s.
    assert!(clearance.is_current(at(world.now + 75)));
    assert!(!clearance.is_current(at(world.now + 76)));
    assert!(!clearance.is_current(at(world.now - 1)), "evidence from the future is none");
}

#[test]
fn the_older_rollout_keeps_a_namespace_and_what_was_written_stays_with_its_writer() {
    let mut younger = World::shop();
    younger.plan.claimed.insert("orders".into(), "older".into());
    let decision = younger.visit();
    assert_eq!(decision.refused[0].code, Code::AnotherRolloutOwns, "{:?}", decision.refused);
    assert!(decision.actions.is_empty(), "a refused plan takes no step");

    // Written before the other came: harm there is still undone.
    let mut writer = World::shop();
    writer.visits(4);
    writer.plan.claimed.insert("catalog".into(), "older".into());
    writer.plan.claimed.insert("orders".into(), "older".into());
    assert_eq!(writer.mode("catalog"), Some(Mode::Strict));
    writer.failures("catalog", 2.0);
    writer.visit();
    assert_eq!(writer.mode("catalog"), Some(Mode::Permissive));
}
