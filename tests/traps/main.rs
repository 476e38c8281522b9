//! Answers of a metrics source that are no evidence, each put in the place of each honest one: none
//! of them may pass the gates. And answers that are honest in an unusual way: all of them do.
//!
//! Everything that ships takes part: the client on a real connection, the questions, what is made
//! of the answers, and the gates.

mod answers;
mod honest;
mod lies;
mod wrong;

use answers::{ALL, About, Asked, Change, date, head, pieces, results, say, text};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::Uri;
use honest::honest;
use jiff::SignedDuration;
use lies::lies;
use meshrollout::config::{Config, MetricsSource};
use meshrollout::observe::evidence::{Question, gather};
use meshrollout::observe::prometheus::Prometheus;
use meshrollout_core::gate::{Evaluation, Verdict};
use meshrollout_core::ident::Namespace;
use meshrollout_core::testing::{World, at, seconds};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use wrong::traps;

/// Which questions are answered otherwise, and how.
type Spoiled = Arc<Mutex<(Vec<About>, Change)>>;

/// A server on the loopback, its clock that of the shop.
struct Server {
    source: Prometheus,
    change: Spoiled,
}

impl Server {
    async fn start(timeout: SignedDuration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let change: Spoiled = Arc::new(Mutex::new((vec![], text(Body::from))));
        let answers = |State(change): State<Spoiled>, uri: Uri, body: Bytes| async move {
            let form: BTreeMap<_, _> = form_urlencoded::parse(&body).into_owned().collect();
            let is_range = uri.path().ends_with("query_range");
            let number = |name: &str| form[name].parse::<f64>().unwrap() as i64;
            let ends = match is_range {
                true => {
                    (number("start")..=number("end")).step_by(number("step") as usize).collect()
                }
                false => vec![],
            };
            let asked = Asked { about: About::of(&form["query"], is_range), ends };
            let (where_, change) = change.lock().unwrap().clone();
            let mut response = match where_.contains(&asked.about) {
                true => change(&asked, asked.honest()),
                false => say(asked.honest().to_string()),
            };
            response.headers_mut().entry("date").or_insert_with(|| date(0).parse().unwrap());
            response
        };
        let router = Router::new().fallback(answers).with_state(Arc::clone(&change));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let yaml = format!("metricsSources: [{{name: main, url: 'http://{address}'}}]");
        let source = Config::parse(&yaml).unwrap().metrics_sources.remove(0);
        let source = MetricsSource { timeout, ..source };
        Self { source: Prometheus::new(source).with_size_limit(1 << 22), change }
    }

    /// The verdict on `catalog` where these questions are answered otherwise.
    async fn verdict(&self, about: &[About], change: &Change) -> Evaluation {
        *self.change.lock().unwrap() = (about.to_vec(), Arc::clone(change));
        let question = Question { lookback: seconds(3600), harm_window: seconds(30), since: None };
        let telemetry = gather(&self.source, &question, at(0)).await;
        let mut world = World::shop();
        world.snapshot.at = at(0);
        world.snapshot.telemetry = Arc::new(telemetry);
        let facts = &world.snapshot.namespaces[&Namespace::from("catalog")];
        Evaluation::run(&world.plan, &world.snapshot, facts)
    }
}

#[tokio::test]
async fn no_answer_that_is_no_evidence_passes() {
    let server = Server::start(seconds(5)).await;
    let (traps, lies) = (traps(), lies());
    let everywhere = traps.iter().flat_map(|(name, change)| ALL.map(|about| (name, about, change)));
    let cases: Vec<_> =
        everywhere.chain(lies.iter().map(|(name, about, change)| (name, *about, change))).collect();
    let mut passed = vec![];
    for (name, about, change) in &cases {
        if server.verdict(&[*about], change).await.verdict() == Verdict::Pass {
            passed.push(format!("{name}, to the question {about:?}"));
        }
    }
    assert!(passed.is_empty(), "{passed:#?}");
    let kinds = traps.len() + lies.len();
    assert!(kinds >= 100, "only {kinds} kinds");
    println!("{kinds} kinds of traps, {} in all, none passed", cases.len());
}

#[tokio::test]
async fn no_clock_that_is_off_passes() {
    let server = Server::start(seconds(5)).await;
    for (name, skew) in [("ahead", 3600), ("behind", -3600), ("a little ahead", 60)] {
        let evaluation = server.verdict(&ALL, &head("date", move || date(skew))).await;
        assert_ne!(evaluation.verdict(), Verdict::Pass, "{name}");
    }
    let silent = server.verdict(&ALL, &head("date", || "some day".into())).await;
    assert_ne!(silent.verdict(), Verdict::Pass, "a clock that cannot be read");
}

/// One of the two would do, and says so; without either nothing would show harm.
#[tokio::test]
async fn no_silence_about_harm_passes() {
    let server = Server::start(seconds(5)).await;
    let nothing = results(|_, series| series.clear());
    let both = [About::Exporters, About::Requests];
    for one in both {
        assert_eq!(server.verdict(&[one], &nothing).await.verdict(), Verdict::Pass, "{one:?}");
    }
    assert_ne!(server.verdict(&both, &nothing).await.verdict(), Verdict::Pass);
}

#[tokio::test]
async fn no_answer_that_is_late_passes() {
    let server = Server::start(SignedDuration::from_millis(100)).await;
    for about in ALL {
        let slow = text(|text| pieces(&text, 4, Duration::from_millis(200)));
        let begun = Instant::now();
        let evaluation = server.verdict(&[about], &slow).await;
        assert_ne!(evaluation.verdict(), Verdict::Pass, "{about:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{about:?}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn every_honest_answer_passes() {
    let server = Server::start(seconds(20)).await;
    let honest = honest();
    let mut count = 0;
    for (name, change) in &honest {
        for about in ALL.iter().map(std::slice::from_ref).chain([&ALL[..]]) {
            let evaluation = server.verdict(about, change).await;
            let found = evaluation.obstacles();
            assert_eq!(evaluation.verdict(), Verdict::Pass, "{name}, to {about:?}: {found:#?}");
            count += 1;
        }
    }
    println!("{} ways to be honest, {count} in all, every one passed", honest.len());
}

/// Were the questions not told apart, one trap would stand in another's place.
#[tokio::test]
async fn each_question_is_asked_once() {
    let server = Server::start(seconds(5)).await;
    let heard = Arc::new(Mutex::new(vec![]));
    let listening: Change = {
        let heard = Arc::clone(&heard);
        Arc::new(move |asked, honest| {
            heard.lock().unwrap().push(asked.about);
            say(honest.to_string())
        })
    };
    server.verdict(&ALL, &listening).await;
    let mut heard = heard.lock().unwrap().clone();
    heard.sort();
    assert_eq!(heard, ALL);
}
