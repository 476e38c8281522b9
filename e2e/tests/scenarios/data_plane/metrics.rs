//! What real sidecars measure reaches Prometheus under Istio's names, and a Job runs and ends.

use meshrollout_e2e::{Cluster, RealWorkload, until};

use super::own_source::{mixed, says_the_same};
use super::{LIMIT, enough, options};

#[tokio::test]
async fn real_sidecars_say_who_called_whom_and_how_and_the_same_to_us() {
    let Some((options, _place)) = options().await else { return };
    let cluster = Cluster::start(options).await.unwrap();
    let loads = mixed(&cluster).await;
    for load in &loads {
        enough(load, load.mark().unwrap()).await;
    }

    let to = r#"destination_workload="echo",destination_workload_namespace="server""#;
    let hook = r#"destination_workload="hook",destination_workload_namespace="server""#;
    let from = r#"source_workload="client",source_workload_namespace="meshed""#;
    let service = r#"destination_service="echo.server.svc.cluster.local",destination_service_namespace="server""#;
    let hook_service = r#"destination_service="hook.server.svc.cluster.local",destination_service_namespace="server""#;
    let nobody = r#"source_workload="unknown",source_workload_namespace="unknown""#;
    let requests = |labels: &str| format!("istio_requests_total{{{labels}}}");
    let answered = r#"request_protocol="http",response_code="200",response_flags="-""#;
    for query in [
        requests(&format!(
            r#"reporter="destination",connection_security_policy="mutual_tls",{from},{to},{answered}"#
        )),
        requests(&format!(
            r#"reporter="destination",connection_security_policy="none",{nobody},{to},{answered}"#
        )),
        requests(&format!(r#"reporter="source",{from},{service},{answered}"#)),
        // Of a proxy that was told nothing about its statistics.
        requests(&format!(
            r#"reporter="destination",destination_workload="echo",destination_workload_namespace="strict",{answered}"#
        )),
        format!(
            r#"istio_tcp_connections_opened_total{{reporter="destination",connection_security_policy="mutual_tls",request_protocol="tcp",source_workload="tls",{hook}}}"#
        ),
        format!(r#"istio_tcp_sent_bytes_total{{reporter="destination",{hook}}}"#),
        format!(
            r#"istio_tcp_connections_closed_total{{reporter="source",source_workload="tls",{hook_service}}}"#
        ),
        r#"istio_build{component="proxy",namespace="server",pod=~"echo-.+"}"#.to_owned(),
        r#"istio_agent_cert_expiry_seconds{resource_name="default",namespace="meshed"} > 3600"#
            .to_owned(),
    ] {
        until(&query, LIMIT, async || {
            let samples =
                cluster.prometheus().query(&query).await.map_err(|error| error.to_string())?;
            let some = samples.iter().any(|it| it["value"][1].as_str().is_some_and(|it| it != "0"));
            if some { Ok(()) } else { Err(all_of(&cluster, &query).await) }
        })
        .await
        .unwrap();
    }
    // A pod without a sidecar is nobody's evidence.
    let others = r#"count({namespace="plain"})"#;
    assert_eq!(cluster.prometheus().query(others).await.unwrap(), Vec::<serde_json::Value>::new());
    says_the_same(&cluster).await;
    a_job_ends_with_its_work(&cluster).await;
}

/// The series of a query's metric, for a person to see which label differs.
async fn all_of(cluster: &Cluster, query: &str) -> String {
    let metric = query.split('{').next().unwrap_or(query);
    match cluster.prometheus().query(metric).await {
        Ok(series) => {
            let labels: Vec<_> = series.iter().map(|it| it["metric"].to_string()).collect();
            format!("{metric} is there as {labels:#?}")
        }
        Err(error) => error.to_string(),
    }
}

/// Beside its sidecar, which ends with it.
async fn a_job_ends_with_its_work(cluster: &Cluster) {
    // An answer, and soon: a port where nobody listens costs ten seconds for each request.
    let (by_name, refused) = ("http://echo.server:8080/", "http://echo.server:8080/?codes=503");
    for (name, url, phase) in [("well", by_name, "Succeeded"), ("badly", refused, "Failed")] {
        cluster.run(&RealWorkload::job("server", name, url, 5)).await.unwrap();
        let tally =
            cluster.load("server", name).await.unwrap().since(super::Mark::default()).unwrap();
        println!("{name}: {tally}");
        let pods = cluster.pods("server", name).await.unwrap();
        let status = pods[0].status.clone().unwrap();
        assert_eq!((tally.sent(), status.phase.as_deref()), (5, Some(phase)));
    }
}
