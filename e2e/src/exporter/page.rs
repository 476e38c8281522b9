use std::collections::BTreeMap;
use std::fmt::Write;

use super::State;

const ISTIO_VERSION: &str = "1.31.0";

/// The page that Prometheus scrapes: all sidecars' series, each with its namespace and pod.
pub(super) fn render(state: &State) -> String {
    let mut page = Page::default();
    let scraped =
        state.pods.values().filter(|pod| pod.injected && pod.running && !state.is_hidden(&pod.key));
    for pod in scraped {
        let target = format!("namespace=\"{}\",pod=\"{}\"", pod.key.namespace, pod.key.name);
        let mut add = |metric, labels: &str, value| page.add(metric, labels, &target, value);
        add("istio_build", &format!("component=\"proxy\",tag=\"{ISTIO_VERSION}\","), 1.0);
        if state.agent_metrics {
            let left = state.certificate_seconds(&pod.key);
            add("istio_agent_cert_expiry_seconds", "resource_name=\"default\",", left);
        }
        if state.refusal_counter {
            let refused = state.counters.refused_by(&pod.key).floor();
            let listener = "listener_address=\"0.0.0.0_15006\",";
            add("envoy_listener_no_filter_chain_match", listener, refused);
        }
        for (series, count) in state.counters.of(&pod.key) {
            // A proxy's series is born with the first request.
            if count >= 1.0 {
                add(series.metric, &series.labels, count.floor());
            }
        }
    }
    page.text()
}

/// Samples in groups by metric, as the format wants them.
#[derive(Default)]
struct Page(BTreeMap<&'static str, String>);

impl Page {
    fn add(&mut self, metric: &'static str, labels: &str, target: &str, value: f64) {
        let group = self.0.entry(metric).or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(group, "{metric}{{{labels}{target}}} {value}");
    }

    fn text(self) -> String {
        let mut text = String::new();
        for (metric, samples) in self.0 {
            let gauge = ["istio_build", "istio_agent_cert_expiry_seconds"].contains(&metric);
            let kind = if gauge { "gauge" } else { "counter" };
            let _ = write!(text, "# TYPE {metric} {kind}\n{samples}");
        }
        text
    }
}
