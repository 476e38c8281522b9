//! Stories of stepping back: harm that hides, requests that cross, and what no deletion undoes.

use meshrollout_core::decide::State;
use meshrollout_core::finding::Code;
use meshrollout_core::ident::{Namespace, Port};
use meshrollout_core::mode::{Declared, Mode};
use meshrollout_core::plan::{OnIdle, Targets};
use meshrollout_core::progress::Progress;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::testing::{World, at, seconds};

#[test]
fn harm_is_undone_although_another_policy_holds_a_port_at_disable() {
    let mut world = World::shop();
    world.visits(4);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    // At three in the morning somebody takes a port out of the mesh.
    world.set_workload_policy("catalog", "by-hand", 8080, Mode::Disable);
    world.failures("catalog", 2.0);
    world.visit();
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

#[test]
fn what_is_seen_counts_although_other_evidence_is_gone() {
    for lost in 0..2 {
        let mut world = World::shop();
        world.visits(4);
        world.failures("catalog", 2.0);
        let down = || Cause::SourceUnavailable("late".into());
        match lost {
            0 => world.telemetry.presence = Reading::Unknown(down()),
            _ => world.telemetry.refusals = Reading::Unknown(down()),
        }
        world.visit();
        assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "{lost}");
    }
}

/// Looks that come faster than scrapes, and looks at what has just been switched.
#[test]
fn soft_harm_is_undone_when_another_scrape_shows_it_however_many_looks_that_takes() {
    for (scrape, looks) in [(15, 2), (120, 5)] {
        let mut world = World::shop();
        world.visits(4);
        world.telemetry.scrape_interval = seconds(scrape);
        world.edit_pods("catalog", |pod| pod.ready_since = None);
        world.visits(looks - 1);
        assert_eq!(world.mode("catalog"), Some(Mode::Strict), "{scrape}");
        world.visit();
        assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "{scrape}");
    }
}

#[test]
fn what_a_client_was_answered_before_the_switch_is_no_harm_of_it() {
    let mut world = World::shop();
    world.visits(4);
    // The window in which the switch fell.
    world.answers_of_5xx("catalog", 30.0);
    world.visits(2);
    world.answers_of_5xx("catalog", 0.0);
    world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));

    // What it is answered after it is.
    let mut world = World::shop();
    world.visits(4);
    world.answers_of_5xx("catalog", 0.0);
    world.visits(1);
    world.answers_of_5xx("catalog", 30.0);
    world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

/// Its leader's clock was ahead when it was switched, and is not any more.
#[test]
fn harm_after_a_switch_in_the_future_is_undone() {
    let mut world = World::shop();
    world.visits(4);
    let catalog = Namespace::from("catalog");
    let mut policy = world.policy(&catalog).expect("it stands there").clone();
    let ours = policy.ours.as_mut().expect("it is ours");
    ours.strict_since = ours.strict_since.map(|since| since + seconds(600));
    world.snapshot.policies = world.snapshot.policies.with(policy);
    world.visit();
    world.failures("catalog", 2.0);
    world.visit();
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

#[test]
fn a_rollback_needs_no_mesh_configuration() {
    let mut world = World::shop();
    world.visits(4);
    world.snapshot.mesh = Reading::Unknown(Cause::NotRead("ConfigMap istio".into()));
    world.failures("catalog", 2.0);
    world.visit();
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

#[test]
fn a_namespace_that_leaves_the_plan_while_watched_finishes_its_bake_and_holds_the_next() {
    let mut world = World::shop();
    world.visits(4);
    world.plan.stages.remove(0);
    let decision = world.visits(2);
    assert_eq!(decision.namespaces[&"catalog".into()].state, State::Watching);
    assert_eq!(world.mode("orders"), None, "the next stage waits");
    world.visits(3);
    let released = world.visits(2);
    assert!(!released.namespaces.contains_key(&"catalog".into()), "its bake is over");
    world.visits(4);
    assert_eq!(world.mode("orders"), Some(Mode::Strict));

    // Harm on its way out is still undone.
    let mut world = World::shop();
    world.visits(4);
    world.plan.stages.remove(0);
    world.failures("catalog", 2.0);
    world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

#[test]
fn one_that_left_while_watched_is_watched_although_its_report_was_lost() {
    let mut world = World::shop();
    world.visits(4);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    world.plan.stages.remove(0);
    world.progress = Progress::default();
    let decision = world.visit();
    assert_eq!(decision.namespaces[&"catalog".into()].state, State::Watching);
    world.failures("catalog", 2.0);
    world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));

    // Long after, nobody knows better than that its bake is over.
    let mut world = World::shop();
    world.visits(4);
    world.plan.stages.remove(0);
    world.progress = Progress::default();
    world.now += 3600;
    assert!(!world.visit().namespaces.contains_key(&"catalog".into()));
}

/// Another hand puts something around our STRICT, which stays ours.
fn put_ports_on(world: &mut World, name: &str) {
    let mut policy = world.policy(&name.into()).expect("it stands there").clone();
    policy.ports.insert(Port(8080), Declared::Mode(Mode::Strict));
    world.snapshot.policies = world.snapshot.policies.with(policy);
}

#[test]
fn harm_is_undone_although_another_hand_put_something_around_our_strict() {
    let mut world = World::shop();
    world.visits(4);
    put_ports_on(&mut world, "catalog");
    let decision = world.visits(8);
    assert_eq!(decision.namespaces[&"catalog".into()].state, State::Watching, "its bake stands");
    assert_eq!(world.mode("orders"), None);
    let codes: Vec<_> = decision.obstacles().iter().map(|found| found.code).collect();
    assert!(codes.contains(&Code::PolicyDrifted), "{codes:?}");
    world.failures("catalog", 2.0);
    world.visit();
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

#[test]
fn a_person_has_our_strict_back_although_another_hand_put_something_around_it() {
    let mut world = World::shop();
    while world.mode("orders").is_none() {
        world.visits(1);
    }
    put_ports_on(&mut world, "catalog");
    let decision = world.visits(3);
    assert_eq!(decision.namespaces[&"catalog".into()].state, State::Blocked);
    world.failures("catalog", 2.0);
    world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict), "what was finished is a person's");
    world.plan.asked.rollback = Some(at(world.now).to_string());
    world.visit();
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

#[test]
fn a_workload_that_sleeps_is_unverified() {
    let mut world = World::shop();
    world.edit("catalog", |facts| {
        facts.workloads.values_mut().for_each(|workload| workload.pods.clear());
    });
    let decision = world.visits(10);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "the pin is harmless");
    assert_eq!(decision.obstacles()[0].code, Code::NothingSeen);
    world.plan.gates.on_idle = OnIdle::Allow;
    world.visits(6);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
}

#[test]
fn pods_that_are_not_ready_any_more_take_strict_back() {
    let mut world = World::shop();
    world.visits(4);
    world.edit_pods("catalog", |pod| pod.ready_since = None);
    world.visits(3);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

#[test]
fn a_client_that_always_failed_a_little_and_now_fails_always_is_harm() {
    let mut world = World::shop();
    if let Reading::Known(edges) = &mut world.telemetry.edges {
        edges.iter_mut().for_each(|edge| edge.failures.0[3].1 = 1.0);
    }
    world.visits(4);
    world.failures("catalog", 2.0);
    world.visit();
    assert_eq!(world.mode("catalog"), Some(Mode::Strict), "that is its everyday noise");
    world.failures("catalog", 500.0);
    world.visit();
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

#[test]
fn a_retry_soaks_again_from_zero() {
    let mut world = World::shop();
    world.plan.stages[0].soak = seconds(120);
    while world.mode("catalog") != Some(Mode::Strict) {
        world.visits(1);
    }
    // All of it before a gap alone would have restarted the soak.
    world.plan.asked.abort = Some("1".into());
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    world.plan.asked.retry = Some(at(world.now).to_string());
    world.visits(3);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "the old soak does not count");
    world.visits(5);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
}

#[test]
fn of_requests_heard_together_the_last_one_asked_stands() {
    let mut world = World::shop();
    world.visits(4);
    world.plan.asked.retry = Some(at(world.now - 20).to_string());
    world.plan.asked.abort = Some(at(world.now - 10).to_string());
    world.visits(4);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "stop was the last word");
    assert!(world.visit().halted);
}

#[test]
fn a_retry_heard_too_late_does_not_undo_a_later_rollback() {
    let mut world = World::shop();
    world.visits(4);
    world.failures("catalog", 2.0);
    world.plan.asked.retry = Some(at(world.now - 3600).to_string());
    world.visits(6);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "that retry was for something else");
}

#[test]
fn a_retry_does_not_forgive_the_rollback_of_the_visit_that_hears_it() {
    let mut world = World::shop();
    world.visits(4);
    world.failures("catalog", 2.0);
    world.plan.asked.retry = Some(at(world.now - 10).to_string());
    world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    world.visits(6);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "whoever asked had not seen it");
    // Nor does it forgive once the mark of that rollback is gone with its policy.
    let mut marked = world.clone();
    world.delete_policy("catalog");
    world.visits(6);
    assert_eq!(world.mode("catalog"), None);
    marked.plan.asked.retry = Some(at(marked.now - 10).to_string());
    marked.visits(4);
    assert_eq!(marked.mode("catalog"), Some(Mode::Strict), "now it was seen");
}

#[test]
fn deleting_the_policy_after_a_rollback_is_no_retry() {
    let mut world = World::shop();
    world.visits(4);
    world.failures("catalog", 2.0);
    world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    world.delete_policy("catalog");
    let decision = world.visits(8);
    assert_eq!(decision.namespaces[&"catalog".into()].state, State::Blocked);
    assert_eq!(world.mode("catalog"), None);
}

#[test]
fn a_retry_asked_before_a_rollback_does_not_forgive_it_whenever_it_is_heard() {
    let mut world = World::shop();
    world.visits(4);
    world.failures("catalog", 2.0);
    world.plan.asked.retry = Some(at(world.now - 10).to_string());
    // It steps back, and dies before it has noted what it heard.
    let known = world.progress.clone();
    world.visits(1);
    world.progress = known;
    world.visits(6);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "nobody has seen that rollback");
}

#[test]
fn a_retry_that_comes_too_early_for_a_rollback_is_the_last_word_all_the_same() {
    let mut world = World::shop();
    while world.mode("orders") != Some(Mode::Strict) {
        world.visits(1);
    }
    world.failures("orders", 2.0);
    world.plan.asked.rollback = Some(at(world.now - 20).to_string());
    world.plan.asked.retry = Some(at(world.now - 10).to_string());
    world.visits(6);
    assert_eq!(world.mode("orders"), Some(Mode::Permissive), "it was harmed");
    assert_eq!(world.mode("catalog"), Some(Mode::Strict), "its rollback was taken back");
}

#[test]
fn deleting_the_policy_is_no_retry_although_memory_was_lost_before() {
    let mut world = World::shop();
    world.visits(4);
    world.failures("catalog", 2.0);
    world.visits(2);
    world.progress = Progress::default();
    world.visits(2);
    world.delete_policy("catalog");
    world.visits(8);
    assert_eq!(world.mode("catalog"), None, "its mark was seen");
    world.plan.asked.retry = Some(at(world.now).to_string());
    world.telemetry = World::shop().telemetry;
    world.visits(6);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
}

/// When all memory is lost, what was asked long ago is heard once more.
#[test]
fn a_retry_that_is_no_past_time_forgives_nothing_and_says_so() {
    for asked in ["now".to_owned(), at(1_000_000_000).to_string()] {
        let mut world = World::shop();
        world.plan.asked.retry = Some(asked.clone());
        world.visits(4);
        world.failures("catalog", 2.0);
        world.visits(2);
        world.progress = Progress::default();
        world.telemetry = World::shop().telemetry;
        world.visits(8);
        assert_eq!(world.mode("catalog"), Some(Mode::Permissive), "{asked}");
        let said = world.look().1.namespaces[&"catalog".into()].findings[0].message.clone();
        assert!(said.contains(&format!("the retry {asked:?} is no time")), "{said}");
        world.plan.asked.retry = Some(at(world.now).to_string());
        world.visits(8);
        assert_eq!(world.mode("catalog"), Some(Mode::Strict), "{asked}");
    }
}

#[test]
fn a_retry_that_is_no_past_time_overrules_no_stop_that_is_found_with_it() {
    for asked in ["now".to_owned(), at(1_000_000_000).to_string()] {
        let mut world = World::shop();
        world.plan.asked.retry = Some(asked);
        world.visits(1);
        world.plan.asked.abort = Some(at(world.now - 5).to_string());
        world.progress = Progress::default();
        world.visits(8);
        assert_ne!(world.mode("catalog"), Some(Mode::Strict));
    }
}

#[test]
fn a_retry_forgives_no_deletion_that_comes_after_it() {
    let mut world = World::shop();
    while world.mode("orders").is_none() {
        world.visits(1);
    }
    // For something else; the first stage is done.
    world.plan.asked.retry = Some(at(world.now - 10).to_string());
    while world.mode("orders") != Some(Mode::Strict) {
        world.visits(1);
    }
    world.delete_policy("catalog");
    let decision = world.visits(8);
    assert_eq!(decision.namespaces[&"catalog".into()].state, State::Blocked, "we do not fight");
    assert_eq!(world.mode("catalog"), None);
    world.plan.asked.retry = Some(at(world.now - 10).to_string());
    world.visits(5);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict), "this one is meant for it");
}

#[test]
fn a_rollback_that_no_istiod_hears_is_said_with_the_command() {
    let mut world = World::shop();
    world.visits(4);
    world.failures("catalog", 2.0);
    world.visit();
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    let silent = |world: &mut World| {
        let decision = world.visit();
        let findings = decision.namespaces[&"catalog".into()].findings.clone();
        findings.into_iter().find(|found| found.code == Code::RollbackNotEffective)
    };
    assert_eq!(silent(&mut world), None);
    if let Reading::Known(plane) = &mut world.telemetry.control_plane {
        plane.instances = 0;
    }
    let found = silent(&mut world).expect("the proxies are STRICT still");
    assert!(found.message.contains("istiod is down"), "{found:?}");
    assert_eq!(found.remedy, "kubectl rollout restart deployment istiod -n istio-system");
}

#[test]
fn an_abort_after_a_rollback_of_everything_takes_nothing_from_it() {
    let mut world = World::shop();
    while world.mode("orders") != Some(Mode::Strict) {
        world.visits(1);
    }
    world.plan.asked.rollback = Some(at(world.now - 20).to_string());
    world.plan.asked.abort = Some(at(world.now - 10).to_string());
    world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
    assert_eq!(world.mode("orders"), Some(Mode::Permissive));
}

#[test]
fn an_abort_takes_back_one_that_left_the_plan_when_all_else_is_done() {
    let mut world = World::shop();
    world.plan.stages[1].targets = Targets::Named([].into());
    world.visits(4);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    world.plan.stages.remove(0);
    world.visits(1);
    world.plan.asked.abort = Some("now".into());
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

/// As where a newer version's words are in all of them.
#[test]
fn an_abort_takes_back_what_is_watched_though_no_stage_can_be_read() {
    let mut world = World::shop();
    world.visits(4);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    world.plan.stages.clear();
    world.plan.paused = true;
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    world.plan.asked.abort = Some("now".into());
    world.visits(1);
    assert_eq!(world.mode("catalog"), Some(Mode::Permissive));
}

#[test]
fn one_that_became_the_root_meanwhile_is_left_to_a_person() {
    let mut world = World::shop();
    world.visits(4);
    if let Reading::Known(mesh) = &mut world.snapshot.mesh {
        mesh.roots.push("catalog".into());
    }
    world.failures("catalog", 2.0);
    let decision = world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict), "what is written there is the mesh's");
    let codes: Vec<_> = decision.obstacles().iter().map(|found| found.code).collect();
    assert!(codes.contains(&Code::RootNamespaceInScope), "{codes:?}");
}
