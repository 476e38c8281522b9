//! What the operator tells OpenTelemetry's own collector, and what becomes of it without one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use meshrollout_e2e::{Cluster, Fault, OperatorOptions, Options, Rollout, Span, until};
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(150);

#[tokio::test]
async fn each_evaluation_is_a_trace_and_nothing_waits_for_the_collector() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install().await.unwrap();
    cluster.front().await.unwrap();
    cluster.called(&["one"]).await.unwrap();
    let options = |url: &str| {
        let usual = OperatorOptions::default();
        let config = format!("{}traces: {{url: '{url}'}}\n", usual.config);
        OperatorOptions { config, ..usual }
    };

    // One that takes what it is sent, and never answers.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", mute.local_addr().unwrap());
    let held = tokio::spawn(async move {
        let mut held = vec![];
        loop {
            held.push(mute.accept().await.unwrap());
        }
    });
    let operator = cluster.operator(&options(&url)).await.unwrap();
    let rollout = Rollout::enforce("shop", &[("first", &["one"])]);
    cluster.apply_rollout(&rollout).await.unwrap();
    let ready = cluster.until_ready_is("shop", "Enforced", LIMIT).await;
    ready.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    let told = until("the missing answer to be told", LIMIT, async || {
        if operator.log().contains("no answer within 5s") { Ok(()) } else { Err(operator.log()) }
    });
    told.await.unwrap();
    let begin = Instant::now();
    operator.stop().await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "it waits {:?} to end", begin.elapsed());
    held.abort();

    // One that is away, and comes back.
    let mut collector = cluster.collector().await.unwrap();
    collector.stop();
    let operator = cluster.operator(&options(&collector.url())).await.unwrap();
    let log = operator.log_file().to_owned();
    let said = |what: &str| std::fs::read_to_string(&log).unwrap().matches(what).count();
    let until_said = async |what: &str| {
        let told = until(what, LIMIT, async || match said(what) {
            0 => Err("not yet".to_owned()),
            _ => Ok(()),
        });
        told.await.unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));
    };
    until_said("traces are not taken").await;
    operator.evaluated("shop", 10, LIMIT).await.unwrap();
    collector.start().await.unwrap();
    until_said("traces are taken again").await;

    // A second namespace, and questions that fail.
    cluster.metrics_proxy().set(Fault::Refuse);
    operator.evaluated("shop", 2, LIMIT).await.unwrap();
    cluster.metrics_proxy().set(Fault::Pass);
    cluster.called(&["two"]).await.unwrap();
    let stages: [(&str, &[&str]); 2] = [("first", &["one"]), ("second", &["two"])];
    cluster.apply_rollout(&Rollout::enforce("shop", &stages)).await.unwrap();
    cluster.until_state_is("shop", "two", "Enforced", LIMIT).await.unwrap();
    operator.stop().await.unwrap();
    assert_eq!(said("traces are not taken"), 1, "once, not every few seconds");
    assert_eq!(said("evaluation{"), 0, "spans are the collector's, not the log's");

    let spans = collector.spans().unwrap();
    let by_id: BTreeMap<_, _> = spans.iter().map(|span| (&*span.id, span)).collect();
    let around = |span: &Span| by_id.get(&*span.parent).copied();
    let first: Vec<_> = spans.iter().filter(|span| span.parent.is_empty()).collect();
    let names: BTreeSet<_> = first.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["evaluation"].into());
    for span in &first {
        assert_eq!(span.attributes["rollout"], "shop", "{span:?}");
        assert_eq!(span.resource["service.name"], "meshrollout", "{span:?}");
        assert_eq!(span.resource["service.version"], env!("CARGO_PKG_VERSION"), "{span:?}");
    }
    let strict: Vec<_> = spans.iter().filter(|span| said_of(span, "mode") == "STRICT").collect();
    let [strict] = strict[..] else { panic!("two was switched once: {strict:#?}") };
    assert_eq!((&*strict.name, said_of(strict, "namespace")), ("policy write", "two"));
    assert_eq!(said_of(strict, "outcome"), "done");
    // Our line in the log is what happened in it.
    assert_eq!((&*strict.status, &strict.events[..]), ("Unset", &["policy write".to_owned()][..]));
    let step = around(strict).unwrap();
    assert_eq!((&*step.name, said_of(step, "namespace")), ("step", "two"));
    let whole = around(step).unwrap();
    assert_eq!((&*whole.name, &whole.trace), ("evaluation", &strict.trace));
    // All that is asked of the source in that evaluation is in its trace; nothing is left of it.
    let of = |name| spans.iter().filter(move |it| it.trace == whole.trace && it.name == name);
    assert_eq!(of("query").count(), 14);
    let asked = of("query").next().unwrap();
    assert_eq!(
        (around(asked).unwrap().name.as_str(), said_of(asked, "source")),
        ("evidence", "main")
    );
    assert!(said_of(asked, "query").contains("istio_"), "{asked:?}");
    assert_eq!((of("evidence").count(), of("report").count()), (1, 1));
    let failed = spans.iter().find(|span| span.name == "query" && span.status == "Error");
    assert!(failed.is_some(), "a question that failed is an error in its trace");
}

fn said_of<'a>(span: &'a Span, name: &str) -> &'a str {
    span.attributes.get(name).map_or("", String::as_str)
}
