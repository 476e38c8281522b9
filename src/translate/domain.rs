//! The domain of a cluster's Services. No object of Kubernetes names it; those who were started
//! with it do.

use super::pod::OwnedPod;
use crate::kubernetes::PodSpec;
use meshrollout_core::ident::Namespace;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::workload::Phase;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Istio's default, and that of Kubernetes.
pub const DEFAULT: &str = "cluster.local";

/// Who says which domain the Services are in.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Said {
    /// istiod: it calls Services so, and all rules are held against its names. It has a default of
    /// its own where it is told nothing.
    ByIstiod(Option<Arc<str>>),
    /// A proxy, whose injector was given the same value as istiod.
    ByProxy(Arc<str>),
}

/// What a pod was started with; a proxy that is told nothing tells nothing.
pub(super) fn said(spec: &PodSpec) -> Option<Said> {
    spec.standing_containers().find_map(|container| {
        let given = flag(container.args.as_deref().unwrap_or_default());
        match container.name.as_str() {
            "discovery" => Some(Said::ByIstiod(given.map(Arc::from))),
            // `$(POD_NAMESPACE).svc.cluster.local`: where names without a dot are looked up.
            "istio-proxy" => Some(Said::ByProxy(given?.split_once(".svc.")?.1.into())),
            _ => None,
        }
    })
}

impl OwnedPod {
    /// What it says while it runs.
    pub fn says_of_domain(&self) -> Option<&Said> {
        self.domain.as_ref().filter(|_| self.pod.phase == Phase::Running)
    }
}

fn flag(args: &[String]) -> Option<&str> {
    let mut args = args.iter().map(String::as_str);
    let after = args.find_map(|arg| arg.strip_prefix("--domain"))?;
    let value = after.strip_prefix('=').or_else(|| args.next().filter(|_| after.is_empty()));
    value.map(|domain| domain.trim_end_matches('.')).filter(|domain| !domain.is_empty())
}

/// What all those say, each with namespace and name of its pod: istiod where an injector's webhook
/// leads, else everybody who says something, for elsewhere anybody may have a container of that
/// name. Where they contradict each other it is not known what a rule by a full name is for.
pub fn domain<'a>(
    said: impl Iterator<Item = (&'a Namespace, &'a str, &'a Said)>,
    control_planes: &BTreeSet<Namespace>,
) -> Reading<Arc<str>> {
    let (mut by_istiod, mut by_any) = (BTreeMap::new(), BTreeMap::new());
    for (namespace, pod, said) in said {
        match said {
            Said::ByIstiod(domain) if control_planes.contains(namespace) => {
                let domain = domain.as_deref().unwrap_or(DEFAULT);
                by_istiod.entry(domain).or_insert((namespace, pod));
            }
            Said::ByProxy(domain) | Said::ByIstiod(Some(domain)) => {
                by_any.entry(&**domain).or_insert((namespace, pod));
            }
            Said::ByIstiod(None) => {}
        }
    }
    let mut all = if by_istiod.is_empty() { by_any } else { by_istiod }.into_iter();
    match (all.next(), all.next()) {
        (None, _) => Reading::Known(DEFAULT.into()),
        (Some((only, _)), None) => Reading::Known(only.into()),
        (Some((one, (of_one, first))), Some((other, (of_other, second)))) => {
            Reading::Unknown(Cause::Malformed(format!(
                "the domain of the cluster's Services (pod {of_one}/{first} was started with \
                 --domain {one}, and {of_other}/{second} with {other})"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::pod::owned_pod;
    use serde_json::{Value, json};

    fn pod(namespace: &str, container: &str, args: &[&str], phase: &str) -> (Namespace, OwnedPod) {
        let object: Value = json!({
            "metadata": {"namespace": namespace, "name": "a"},
            "spec": {"containers": [{"name": "app"}, {"name": container, "args": args}]},
            "status": {"phase": phase},
        });
        (namespace.into(), owned_pod(&serde_json::from_value(object).unwrap()))
    }

    fn read(pods: &[(Namespace, OwnedPod)]) -> Result<String, String> {
        read_where(pods, &["istio-system"])
    }

    fn read_where(pods: &[(Namespace, OwnedPod)], homes: &[&str]) -> Result<String, String> {
        let all = pods.iter().filter_map(|(namespace, pod)| {
            Some((namespace, pod.pod.name.as_str(), pod.says_of_domain()?))
        });
        match domain(all, &homes.iter().map(|home| Namespace::new(*home)).collect()) {
            Reading::Known(domain) => Ok(domain.to_string()),
            Reading::Unknown(cause) => Err(cause.to_string()),
        }
    }

    fn proxy(domain: &str) -> (Namespace, OwnedPod) {
        let domain = format!("$(POD_NAMESPACE).svc.{domain}");
        pod("shop", "istio-proxy", &["proxy", "sidecar", "--domain", &domain], "Running")
    }

    fn istiod(args: &[&str]) -> (Namespace, OwnedPod) {
        pod("istio-system", "discovery", args, "Running")
    }

    #[test]
    fn istiod_is_believed_and_where_none_is_seen_the_proxies() {
        assert_eq!(read(&[]).unwrap(), "cluster.local");
        assert_eq!(read(&[proxy("corp.example")]).unwrap(), "corp.example");
        let istiod = istiod(&["discovery", "--domain", "corp.example", "--log_output_level=all"]);
        assert_eq!(read(&[proxy("old.example"), istiod]).unwrap(), "corp.example");
    }

    #[test]
    fn istiod_without_the_flag_has_its_default_and_a_proxy_tells_nothing() {
        assert_eq!(
            read(&[istiod(&["discovery"]), proxy("corp.example")]).unwrap(),
            "cluster.local"
        );
        let silent = pod("shop", "istio-proxy", &["proxy", "sidecar"], "Running");
        assert_eq!(read(&[silent, proxy("corp.example")]).unwrap(), "corp.example");
    }

    #[test]
    fn the_flag_is_read_as_its_program_reads_it() {
        let of = |args: &[&str]| read(&[istiod(args)]).unwrap();
        assert_eq!(of(&["discovery", "--domain=corp.example"]), "corp.example");
        assert_eq!(of(&["discovery", "--domain", "corp.example."]), "corp.example");
        assert_eq!(of(&["discovery", "--domain"]), "cluster.local");
        assert_eq!(of(&["--domainless", "x"]), "cluster.local");
    }

    #[test]
    fn where_an_istiod_is_known_nobody_else_is_asked_and_nobody_who_does_not_run() {
        let feigned = pod("shop", "discovery", &["--domain", "evil.example"], "Running");
        let gone = pod("istio-system", "discovery", &["--domain", "old.example"], "Succeeded");
        let to_come = pod("istio-system", "discovery", &["--domain", "new.example"], "Pending");
        let istiod = istiod(&["--domain", "corp.example"]);
        assert_eq!(read(&[feigned, gone, to_come, istiod]).unwrap(), "corp.example");
    }

    /// A registry of somebody's own may be called so.
    #[test]
    fn where_none_is_known_each_has_a_voice_and_a_default_is_none() {
        let given = pod("shop", "discovery", &["--domain", "evil.example"], "Running");
        let silent = pod("shop", "discovery", &["serve"], "Running");
        let all = [silent, proxy("corp.example")];
        assert_eq!(read_where(&all, &[]).unwrap(), "corp.example");
        assert_eq!(read_where(&all, &["istio-system"]).unwrap(), "corp.example");
        read_where(&[given, proxy("corp.example")], &[]).unwrap_err();
    }

    #[test]
    fn two_domains_are_none() {
        let why = read(&[proxy("a.example"), proxy("b.example")]).unwrap_err();
        assert_eq!(
            why,
            "the domain of the cluster's Services (pod shop/a was started with --domain a.example, \
             and shop/a with b.example) cannot be understood"
        );
        read(&[istiod(&["--domain", "a.example"]), istiod(&[])]).unwrap_err();
    }
}
