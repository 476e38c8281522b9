use super::*;
use crate::observe::evidence::Question;
use crate::observe::evidence::counted::REQUESTS_TOTAL;
use crate::translate::evidence::PodLabels;
use crate::translate::process::Process;
use meshrollout_core::traffic::{Coverage, Name, Telemetry, coverage};

const SCRAPE: SignedDuration = SignedDuration::from_secs(10);
/// A pod that is older than the look-back.
const A: There = ("a", -90_000);
const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// When the operator began, in seconds.
const BEGUN: i64 = 100_000;

const FROM: &str = r#"source_workload="web",source_workload_namespace="shop""#;
const TO: &str = r#"destination_workload="ledger",destination_workload_namespace="pay""#;

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pod(name: &str) -> PodRef {
    PodRef { namespace: "pay".into(), name: name.into() }
}

fn ledger() -> Name {
    Name { namespace: "pay".into(), workload: "ledger".into() }
}

/// A target, by name and the second in which its process began.
type There = (&'static str, i64);

fn target(&(name, since): &There) -> Target {
    let address = "10.0.0.9".parse().unwrap();
    let process = Process {
        uid: Uid::new(format!("{name}-{since}")),
        address,
        since: second(BEGUN + since),
        evicts: None,
    };
    Target { pod: pod(name), whose: Whose::Proxy, process }
}

/// A memory with one round behind it, in which the pods were there. Times are seconds since the
/// operator began.
struct Scene {
    memory: Memory,
    targets: Vec<Target>,
}

impl Scene {
    fn with(pods: &[There]) -> Self {
        let memory = Memory::new(second(BEGUN), SCRAPE);
        let mut scene = Self { memory, targets: vec![] };
        // Whoever asks at once has what it looks back to kept.
        scene.knows(0, None);
        scene.there_are(pods, 0);
        scene.memory.round_is_whole();
        scene
    }

    fn there_are(&mut self, pods: &[There], at: i64) {
        self.targets = pods.iter().map(target).collect();
        self.memory.there_are(&self.targets, second(BEGUN + at));
    }

    fn hears(&mut self, name: &str, at: i64, uptime: i64, lines: &[String]) {
        let target = self.targets.iter().find(|target| target.pod.name == name).unwrap();
        let text = format!("envoy_server_uptime{{}} {uptime}\n{}", lines.join("\n"));
        self.memory.heard(target, second(BEGUN + at), &text).unwrap();
    }

    fn knows(&mut self, at: i64, since: Option<i64>) -> Telemetry {
        self.knows_of(HOUR, at, since)
    }

    fn knows_of(&mut self, lookback: SignedDuration, at: i64, since: Option<i64>) -> Telemetry {
        let question = Question {
            lookback,
            harm_window: SignedDuration::from_secs(30),
            since: since.map(|since| second(BEGUN + since)),
        };
        let labels = PodLabels { namespace: NAMESPACE, pod: POD };
        let lifetime = SignedDuration::from_hours(24);
        let answers = self.memory.answers("test", &question, second(BEGUN + at), lifetime);
        answers.telemetry(labels, lookback)
    }

    fn covered(&mut self, at: i64) -> Coverage {
        let telemetry = self.knows(at, None);
        covered(&telemetry)
    }
}

fn covered(telemetry: &Telemetry) -> Coverage {
    let reports: Vec<_> = telemetry.presence.known().unwrap().values().copied().collect();
    coverage(&reports, telemetry.at, telemetry.lookback, SCRAPE)
}

fn plaintext(count: i64) -> String {
    format!(
        r#"istio_requests_total{{reporter="destination",connection_security_policy="none",{FROM},{TO}}} {count}"#
    )
}

fn mutual(count: i64) -> String {
    format!(
        r#"istio_requests_total{{reporter="destination",connection_security_policy="mutual_tls",{FROM},{TO}}} {count}"#
    )
}

fn client(flags: &str, count: i64) -> String {
    let service =
        r#"destination_service="ledger.pay.svc.cluster.local",destination_service_namespace="pay""#;
    format!(
        r#"istio_requests_total{{reporter="source",response_code="503",response_flags="{flags}",{FROM},{service}}} {count}"#
    )
}

fn refused(count: i64) -> String {
    format!(r#"envoy_listener_no_filter_chain_match{{listener_address="x"}} {count}"#)
}

fn callers(telemetry: &Telemetry) -> Vec<f64> {
    telemetry.callers.known().unwrap().iter().map(|caller| caller.count).collect()
}

fn failures(telemetry: &Telemetry) -> f64 {
    let edges = telemetry.edges.known().unwrap();
    edges.iter().flat_map(|edge| &edge.failures.0).map(|(_, count)| count).sum()
}

#[test]
fn a_proxy_that_was_up_all_the_time_is_evidence_at_its_first_scrape() {
    let mut scene = Scene::with(&[A]);
    scene.hears("a", 5, 7200, &[mutual(9), plaintext(0)]);
    assert_eq!(scene.covered(6), Coverage::Whole);
    let telemetry = scene.knows(6, None);
    assert_eq!(telemetry.unknown_parts(), [""; 0]);
    assert_eq!(callers(&telemetry), [0.0; 0]);
    assert_eq!(telemetry.presence.known().unwrap()[&pod("a")].samples, 360);
}

/// As they are now, over all pods of a workload, and of those alone that still say so.
#[test]
fn what_was_opened_and_not_closed_is_open() {
    let tcp = |what: &str, flags: &str, count: i64| {
        format!(
            r#"istio_tcp_connections_{what}_total{{reporter="destination",connection_security_policy="mutual_tls",response_flags="{flags}",{FROM},{TO}}} {count}"#
        )
    };
    let mut scene = Scene::with(&[A, ("b", -7200)]);
    scene.hears(
        "a",
        5,
        7200,
        &[tcp("opened", "-", 7), tcp("closed", "-", 4), tcp("closed", "DC", 1)],
    );
    scene.hears("b", 5, 7200, &[tcp("opened", "-", 5), tcp("closed", "-", 5)]);
    let open = |telemetry: &Telemetry| telemetry.open.known().unwrap().get(&ledger()).copied();
    assert_eq!(open(&scene.knows(6, None)), Some(2.0));
    scene.hears("a", 15, 7210, &[tcp("opened", "-", 7), tcp("closed", "-", 7)]);
    assert_eq!(open(&scene.knows(16, None)), None);
    scene.hears("b", 15, 7210, &[tcp("opened", "-", 9), tcp("closed", "-", 5)]);
    assert_eq!(open(&scene.knows(16, None)), Some(4.0));
    assert_eq!(open(&scene.knows(600, None)), None, "nobody said so for long");
}

#[test]
fn one_that_was_not_says_when_it_will_be() {
    let mut scene = Scene::with(&[("a", -595)]);
    scene.hears("a", 5, 600, &[]);
    assert_eq!(scene.covered(6), Coverage::Until(second(BEGUN + 5 - 600 + 3600)));
}

#[test]
fn scrapes_that_were_missed_lose_nothing_when_a_later_one_succeeds() {
    let mut scene = Scene::with(&[A]);
    scene.hears("a", 5, 7200, &[plaintext(0)]);
    assert!(matches!(scene.covered(305), Coverage::Gap { .. }), "silent for now");
    scene.hears("a", 305, 7500, &[plaintext(2)]);
    assert_eq!(scene.covered(306), Coverage::Whole);
    assert_eq!(callers(&scene.knows(306, None)), [2.0]);
}

#[test]
fn who_lived_and_died_unseen_is_a_gap_and_who_died_just_after_a_scrape_is_none() {
    const B: There = ("b", 10);
    let mut scene = Scene::with(&[A]);
    scene.hears("a", 5, 7200, &[]);
    scene.there_are(&[A, B], 10);
    scene.there_are(&[A], 100);
    scene.hears("a", 100, 7295, &[]);
    let gap = Coverage::Gap { from: second(BEGUN + 10), to: second(BEGUN + 100) };
    assert_eq!(scene.covered(101), gap, "b was never heard");

    for (gone, whole) in [(30, true), (300, false)] {
        let both = [A, ("b", -90_000)];
        let mut scene = Scene::with(&both);
        for name in ["a", "b"] {
            scene.hears(name, 5, 7200, &[]);
        }
        scene.hears("a", gone, 7195 + gone, &[]);
        scene.there_are(&[A], gone);
        let covered = scene.covered(gone + 1);
        assert_eq!(covered == Coverage::Whole, whole, "gone after {gone}: {covered:?}");
    }
}

#[test]
fn a_pod_of_the_same_name_does_not_hide_that_the_one_before_was_never_heard() {
    let mut scene = Scene::with(&[("a", -600)]);
    scene.there_are(&[("a", 605)], 605);
    scene.hears("a", 610, 5, &[]);
    let gap = Coverage::Gap { from: second(BEGUN - 600), to: second(BEGUN + 605) };
    let presence = scene.knows(611, None).presence.known().unwrap()[&pod("a")];
    assert_eq!(presence.gap, Some((second(BEGUN - 600), second(BEGUN + 605))));
    // Another replica that was heard all the time hides it as little.
    scene.there_are(&[("a", 605), ("b", -90_000)], 612);
    scene.hears("b", 612, 90_000, &[]);
    assert_eq!(scene.covered(613), gap);
}

#[test]
fn one_that_is_there_and_says_nothing_is_a_gap() {
    let mut scene = Scene::with(&[A, ("b", -90_000)]);
    scene.hears("a", 5, 90_000, &[]);
    assert!(matches!(scene.covered(6), Coverage::Gap { .. }), "b, since before the look-back");
    let presence = scene.knows(6, None).presence.known().unwrap()[&pod("b")];
    assert_eq!(presence.last, second(BEGUN + 6 - 3600), "nothing fresh");
}

#[test]
fn what_a_proxy_lost_before_us_when_it_was_started_again_is_a_gap() {
    // Its pod is older than its counters.
    let mut scene = Scene::with(&[A]);
    scene.hears("a", 5, 600, &[]);
    let gap = Coverage::Gap { from: second(BEGUN + 6 - 3600), to: second(BEGUN + 5 - 600) };
    scene.there_are(&[A, ("b", -90_000)], 6);
    scene.hears("b", 6, 90_000, &[]);
    assert_eq!(scene.covered(6), gap);
}

#[test]
fn a_hole_stays_one_until_its_end_leaves_the_lookback() {
    let mut scene = Scene::with(&[A, ("b", -90_000)]);
    for name in ["a", "b"] {
        scene.hears(name, 0, 90_000, &[]);
    }
    scene.hears("a", 1805, 91_805, &[]);
    scene.hears("b", 1805, 5, &[]);
    for (at, whole) in [(1806, false), (3700, false), (5300, false), (5500, true)] {
        scene.there_are(&[A, ("b", -90_000)], at);
        scene.hears("a", at, 90_000 + at, &[]);
        scene.hears("b", at, at - 1800, &[]);
        let covered = scene.covered(at);
        assert_eq!(covered == Coverage::Whole, whole, "{at}: {covered:?}");
    }
}

#[test]
fn what_was_forgotten_is_not_known_to_whoever_looks_further_back() {
    let day = HOUR * 24;
    let mut scene = Scene::with(&[A]);
    scene.hears("a", 5, 90_000, &[plaintext(0)]);
    scene.hears("a", 15, 90_010, &[plaintext(1)]);
    assert_eq!(callers(&scene.knows(16, None)), [1.0]);
    scene.there_are(&[A], 7200);
    scene.hears("a", 7200, 97_195, &[plaintext(1)]);
    let telemetry = scene.knows_of(day, 7201, None);
    assert_eq!(callers(&telemetry), [0.0; 0], "it is forgotten");
    let (from, to) = (second(BEGUN + 7201 - 24 * 3600), second(BEGUN + 3600));
    assert_eq!(covered(&telemetry), Coverage::Gap { from, to });
}

#[test]
fn of_a_proxy_that_forgets_only_what_was_heard_in_time_is_known() {
    let scene = |evicts| {
        let mut scene = Scene::with(&[]);
        let mut forgetful = target(&A);
        forgetful.process.evicts = Some(SignedDuration::from_secs(evicts));
        scene.targets = vec![forgetful];
        scene.memory.there_are(&scene.targets, second(BEGUN));
        for at in 0..=360 {
            scene.hears("a", at * 10, 90_000 + at * 10, &[]);
        }
        scene
    };
    assert_eq!(scene(60).covered(3600), Coverage::Whole);
    let mut missed = scene(60);
    missed.hears("a", 3640, 93_640, &[]);
    assert!(matches!(missed.covered(3641), Coverage::Gap { .. }));
    assert!(matches!(scene(10).covered(3600), Coverage::Gap { .. }), "between two scrapes");
}

#[test]
fn a_proxy_that_began_anew_leaves_a_gap_as_long_as_nobody_heard_it() {
    for (uptime, whole) in [(290, true), (100, false), (5, false)] {
        let mut scene = Scene::with(&[A]);
        scene.hears("a", 5, 7200, &[plaintext(7)]);
        scene.hears("a", 305, uptime, &[plaintext(1)]);
        // Whether it was away or ended unheard, nobody knows what was between.
        let covered = scene.covered(306);
        assert_eq!(covered == Coverage::Whole, whole, "{uptime}: {covered:?}");
        assert_eq!(callers(&scene.knows(306, None)), [8.0], "a counter that began anew adds up");
    }
}

#[test]
fn what_was_counted_before_us_counts_where_it_holds_back_and_not_where_it_undoes() {
    let mut scene = Scene::with(&[A]);
    scene.hears("a", 5, 7200, &[plaintext(3), mutual(4), client("UC", 50), refused(60)]);
    let telemetry = scene.knows(6, None);
    assert_eq!(callers(&telemetry), [3.0], "it may have been a moment ago");
    assert_eq!(telemetry.mutual.known().unwrap().get(&ledger()), None, "it may be long ago");
    assert_eq!(failures(&telemetry), 0.0);
    let refusals = &telemetry.refusals.known().unwrap()[&pod("a")];
    assert!(refusals.0.iter().all(|(_, count)| *count == 0.0), "exported, and none new");

    scene.hears("a", 15, 7210, &[plaintext(3), mutual(5), client("UC", 52), refused(61)]);
    let telemetry = scene.knows(16, None);
    assert_eq!(telemetry.mutual.known().unwrap()[&ledger()], 1.0);
    assert_eq!(failures(&telemetry), 2.0);
    let refusals = &telemetry.refusals.known().unwrap()[&pod("a")];
    assert_eq!(refusals.0.last().unwrap().1, 1.0);
    // A look-back later the plaintext of before is forgotten.
    scene.hears("a", 3700, 10_895, &[plaintext(3)]);
    assert_eq!(callers(&scene.knows(3701, None)), [0.0; 0]);
}

#[test]
fn what_a_proxy_counts_that_began_under_our_eyes_counts_whole() {
    let mut scene = Scene::with(&[A]);
    scene.hears("a", 50, 20, &[mutual(4), client("UF,URX", 5), refused(6)]);
    let telemetry = scene.knows(51, None);
    assert_eq!(telemetry.mutual.known().unwrap()[&ledger()], 4.0);
    assert_eq!(failures(&telemetry), 5.0);
    assert_eq!(telemetry.refusals.known().unwrap()[&pod("a")].0.last().unwrap().1, 6.0);
}

#[test]
fn a_young_proxys_mutual_tls_is_within_the_lookback() {
    let mut scene = Scene::with(&[("a", -595)]);
    scene.hears("a", 5, 600, &[mutual(4)]);
    assert_eq!(scene.knows(6, None).mutual.known().unwrap()[&ledger()], 4.0);
}

#[test]
fn the_first_failure_makes_its_series() {
    let mut scene = Scene::with(&[A]);
    scene.hears("a", 5, 7200, &[client("-", 10)]);
    scene.hears("a", 15, 7210, &[client("-", 11), client("UC", 1)]);
    assert_eq!(failures(&scene.knows(16, Some(10))), 1.0);
}

#[test]
fn windows_reach_back_to_the_switch_and_beyond_however_long_ago() {
    let mut scene = Scene::with(&[A]);
    scene.hears("a", 0, 7200, &[client("UC", 0)]);
    scene.knows(1, Some(0));
    for round in 1..=720 {
        scene.hears("a", round * 10, 7200 + round * 10, &[client("UC", round)]);
        if round % 60 == 0 {
            scene.there_are(&[A], round * 10);
            let telemetry = scene.knows(round * 10, Some(0));
            assert_eq!(failures(&telemetry), round as f64, "after {round} rounds");
        }
    }
}

#[test]
fn nothing_is_known_before_everyone_was_asked_once() {
    let mut scene = Scene::with(&[A]);
    scene.memory.whole_round = false;
    scene.hears("a", 1, 90_000, &[]);
    let unknown = scene.knows(2, None).unknown_parts();
    assert_eq!(unknown.len(), 8, "all but the clock, which is ours: {unknown:?}");
    scene.memory.round_is_whole();
    assert_eq!(scene.knows(2, None).unknown_parts(), [""; 0]);
    scene.memory.begin_anew(second(BEGUN + 3));
    assert_eq!(scene.knows(3, None).unknown_parts().len(), 8);
}

#[test]
fn what_found_no_place_is_not_known_for_as_long_as_it_would_count() {
    let mut scene = Scene::with(&[A]);
    scene.memory.most_points = 1;
    scene.hears("a", 5, 7200, &[plaintext(1), client("-", 1)]);
    scene.hears("a", 15, 7210, &[plaintext(1), client("-", 2)]);
    assert_eq!(scene.knows(16, None).unknown_parts(), ["callers", "mutual", "refusals", "edges"]);
    scene.memory.most_points = 100;
    assert_eq!(scene.knows(3000, None).unknown_parts(), ["callers", "mutual"]);
    assert_eq!(scene.knows(3616, None).unknown_parts(), [""; 0]);
}

#[test]
fn a_scrape_counts_whole_or_not_at_all() {
    let mut scene = Scene::with(&[A]);
    let at = second(BEGUN + 5);
    for (text, why) in [
        (plaintext(1), "envoy_server_uptime is missing"),
        (format!("envoy_server_uptime{{}} NaN\n{}", plaintext(1)), "NaN is no count"),
        (
            format!(
                "envoy_server_uptime{{}} 9\n{}{{a=\"{}\"}} 1",
                REQUESTS_TOTAL,
                "x".repeat(1025)
            ),
            "is longer than",
        ),
        (format!("envoy_server_uptime{{}} 9\n{}\n{}", plaintext(1), plaintext(-1)), "is no count"),
        (format!("envoy_server_uptime{{}} 9\n{}\nistio_requests_total{{", plaintext(1)), "not in"),
    ] {
        let error = scene.memory.heard(&target(&A), at, &text).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let telemetry = scene.knows(6, None);
    assert_eq!(callers(&telemetry), [0.0; 0]);
    assert!(telemetry.presence.known().unwrap()[&pod("a")].gap.is_some());
}

#[test]
fn a_certificate_ages_between_scrapes() {
    let mut scene = Scene::with(&[A]);
    let line = |resource: &str, left: i64| {
        format!(r#"istio_agent_cert_expiry_seconds{{resource_name="{resource}"}} {left}"#)
    };
    scene.hears("a", 5, 7200, &[line("ROOTCA", 9), line("default", 100)]);
    let left = |telemetry: Telemetry| {
        telemetry.certificates.known().unwrap()[&pod("a")].remaining.as_secs()
    };
    assert_eq!(left(scene.knows(25, None)), 80);
}

fn istiod() -> Target {
    Target { whose: Whose::ControlPlane, ..target(&("istiod", -5000)) }
}

#[test]
fn the_control_plane_tells_of_itself() {
    let mut scene = Scene::with(&[]);
    let plane = |text: &str, at: i64, memory: &mut Memory| {
        let text = format!("process_start_time_seconds {}\n{text}", BEGUN - 5000);
        memory.heard(&istiod(), second(BEGUN + at), &text).unwrap();
    };
    let known = |scene: &mut Scene, at| {
        let plane = scene.knows(at, None).control_plane.known().unwrap().clone();
        (
            plane.instances,
            plane.rejects,
            plane.convergence.map(|it| (it.as_secs_f64() * 1000.0).round()),
        )
    };
    assert_eq!(known(&mut scene, 1), (0, 0.0, None), "nobody there is an answer too");
    scene.memory.there_are(&[istiod()], second(BEGUN));
    let buckets = |fast: i64, all: i64| {
        format!(
            "pilot_proxy_convergence_time_bucket{{le=\"0.1\"}} {fast}\n\
             pilot_proxy_convergence_time_bucket{{le=\"0.5\"}} {all}\n\
             pilot_proxy_convergence_time_bucket{{le=\"+Inf\"}} {all}\n"
        )
    };
    let expires = BEGUN + 9000;
    let root = format!("citadel_server_root_cert_expiry_timestamp {expires}\n");
    plane(&format!("{}{root}pilot_total_xds_rejects 2", buckets(5, 5)), 5, &mut scene.memory);
    assert_eq!(known(&mut scene, 6), (1, 2.0, None), "rejects may be of a moment ago");
    plane(&format!("{}pilot_total_xds_rejects 2", buckets(5, 105)), 15, &mut scene.memory);
    assert_eq!(known(&mut scene, 16), (1, 2.0, Some(496.0)));
    plane(&format!("{}{root}", buckets(5, 105)), 610, &mut scene.memory);
    assert_eq!(known(&mut scene, 616), (1, 0.0, None), "ten minutes later");
    let errors =
        "citadel_server_csr_parsing_err_count 2\ncitadel_server_csr_sign_err_count{error=\"CA\"} 3";
    plane(&format!("{}{root}{errors}", buckets(5, 105)), 612, &mut scene.memory);
    let unsigned =
        |scene: &mut Scene, at| scene.knows(at, None).control_plane.known().unwrap().unsigned;
    assert_eq!(unsigned(&mut scene, 616), 5.0);
    let left = scene.knows(616, None).control_plane.known().unwrap().root_remaining;
    assert_eq!(left.map(|left| left.as_secs()), Some(9000 - 616));
    assert_eq!(known(&mut scene, 700).0, 0, "silent for three scrapes");
}
