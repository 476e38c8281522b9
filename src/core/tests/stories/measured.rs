//! One change of the shop for each code that no object shows by itself, and that no other story
//! tells: it is said where it should be, and of the shop as it was it is not.

use meshrollout_core::decide::Decision;
use meshrollout_core::finding::{Code, Finding, Level};
use meshrollout_core::ident::Namespace;
use meshrollout_core::mode::Mode;
use meshrollout_core::plan::Targets;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::snapshot::TelemetryOverride;
use meshrollout_core::testing::{World, at, seconds};
use meshrollout_core::traffic::{ControlPlane, Observed, Telemetry};

/// All that is said of any namespace.
fn all(decision: &Decision) -> Vec<Finding> {
    let standings = decision.namespaces.values();
    let said = standings.flat_map(|one| {
        let evaluated = one.evaluation.findings().into_iter().cloned();
        evaluated.chain(one.findings.iter().cloned())
    });
    said.collect()
}

fn level(world: &World, code: Code) -> Option<Level> {
    let (_, decision) = world.look();
    all(&decision).iter().filter(|found| found.code == code).map(|found| found.level).max()
}

fn control_plane(change: impl Fn(&mut ControlPlane)) -> impl Fn(&mut World) {
    move |world| {
        if let Reading::Known(plane) = &mut world.telemetry.control_plane {
            change(plane);
        }
    }
}

fn root_ends_in(days: i64) -> impl Fn(&mut World) {
    control_plane(move |plane| plane.root_remaining = Some(seconds(days * 86_400)))
}

fn plaintext_without_a_label(world: &mut World) {
    world.plaintext(None, "catalog");
    if let Reading::Known(callers) = &mut world.telemetry.callers {
        callers[0].observed = Observed::Undetermined;
    }
}

fn label_removed(world: &mut World) {
    world.snapshot.overrides.push(TelemetryOverride {
        namespace: "catalog".into(),
        name: "quiet".into(),
        selector: None,
        what: "REQUEST_COUNT".into(),
    });
}

fn injectors_unread(world: &mut World) {
    world.snapshot.injectors = Reading::Unknown(Cause::NotRead("the webhooks".into()));
}

fn strict_by_another_hand(world: &mut World) {
    world.set_policy("catalog", "theirs", Mode::Strict, None);
    world.set_policy("istio-system", "theirs", Mode::Strict, None);
    world.snapshot.policies = world.snapshot.policies.without(&"catalog".into(), "theirs");
}

fn a_namespace_that_is_not_there(world: &mut World) {
    let Targets::Named(names) = &mut world.plan.stages[0].targets else { unreachable!() };
    names.insert(Namespace::from("nowhere"));
}

#[test]
fn each_is_said_at_its_level_and_not_of_the_shop_as_it_was() {
    use Level::{Block, Hold, Warn};
    type Change = Box<dyn Fn(&mut World)>;
    let cases: [(Code, Change, Option<Level>); 10] = [
        (Code::InjectionUnknown, Box::new(injectors_unread), Some(Hold)),
        (Code::SecurityLabelRemoved, Box::new(label_removed), Some(Block)),
        (Code::SecurityLabelRemoved, Box::new(plaintext_without_a_label), Some(Block)),
        (Code::RootExpiring, Box::new(root_ends_in(29)), Some(Block)),
        (Code::RootExpiring, Box::new(root_ends_in(59)), Some(Warn)),
        (Code::RootExpiring, Box::new(root_ends_in(61)), None),
        (Code::ConfigRejected, Box::new(control_plane(|plane| plane.rejects = 1.0)), Some(Hold)),
        (Code::ConfigRejected, Box::new(control_plane(|plane| plane.rejects = 0.0)), None),
        (Code::StrictWithoutProof, Box::new(strict_by_another_hand), Some(Warn)),
        (Code::NamespaceMissing, Box::new(a_namespace_that_is_not_there), Some(Hold)),
    ];
    for (code, change, expected) in cases {
        let mut world = World::shop();
        assert_eq!(level(&world, code), None, "{code} is said of the shop as it was");
        change(&mut world);
        assert_eq!(level(&world, code), expected, "{code}");
    }
}

#[test]
fn evidence_that_is_lost_after_the_switch_is_said_by_name() {
    let mut world = World::shop();
    world.visits(4);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    assert_eq!(level(&world, Code::MetricsLostAfterStrict), None);
    let cause = Cause::SourceUnavailable("connection refused".into());
    world.telemetry = Telemetry::unknown(at(0), seconds(3600), seconds(15), &cause);
    assert!(level(&world, Code::MetricsLostAfterStrict).is_some());
    world.visits(2);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict), "the bake only stands still");
}
