//! Requests that are taken and never answered, as by a load balancer that lost its server: each path
//! that the operator reads hangs once, from its first moment on, and the rollout ends all the same.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshrollout_e2e::{Class, Cluster, OperatorOptions, Options, Rollout, Schedule, until};

/// Every reading path hangs for 15 to 20 seconds, most of them side by side.
const LIMIT: Duration = Duration::from_secs(240);

#[tokio::test]
async fn a_read_without_an_answer_delays_a_rollout_and_does_not_end_it() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install().await.unwrap();
    cluster.front().await.unwrap();
    let namespaces = ["first", "second"];
    cluster.called(&namespaces).await.unwrap();
    let stages = namespaces.each_ref().map(|name| (*name, std::slice::from_ref(name)));
    cluster.apply_rollout(&Rollout::enforce("hung", &stages)).await.unwrap();
    let proxy = cluster.fault_proxy(Schedule::QUIET, vec![]).await.unwrap();
    let hung = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&hung);
    proxy.leave_unanswered(move |class, path| {
        [Class::Get, Class::List, Class::Watch].contains(&class)
            && seen.lock().unwrap().insert((class, path.to_owned()))
    });
    let options = OperatorOptions {
        apiserver: Some(proxy.url()),
        config: "drain: 1s\nproxyAcknowledgement: 1s\nstaleWatch: 15s\n".to_owned(),
        ..OperatorOptions::default()
    };
    let operator = cluster.operator(&options).await.unwrap();
    until("both to be STRICT", LIMIT, async || {
        for name in namespaces {
            let mode = cluster.policy_mode(name).await.map_err(|error| error.to_string())?;
            if mode.as_deref() != Some("STRICT") {
                return Err(format!("{name} is {mode:?}; {:?}", hung.lock().unwrap()));
            }
        }
        Ok(())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", operator.log()));

    let hung = hung.lock().unwrap().clone();
    println!("{} paths hung once", hung.len());
    // What is followed, what is read again before STRICT, and what was made STRICT: of the second
    // namespace that may be yet to come.
    for path in [
        "/api/v1/pods",
        "/apis/meshrollout.dev/v1alpha1/meshrollouts",
        "/api/v1/namespaces/second/pods",
        "/apis/security.istio.io/v1/peerauthentications",
        "/apis/security.istio.io/v1/namespaces/first/peerauthentications/default",
    ] {
        assert!(hung.iter().any(|(_, hung)| hung == path), "{path} is not among {hung:?}");
    }
    operator.stop().await.unwrap();
}
