//! The domain of a cluster's Services. No object of Kubernetes names it; those who were started
//! with it do.

use super::pod::OwnedPod;
use crate::kubernetes::PodSpec;
use meshrollout_core::ident::Namespace;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::workload::Phase;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Istio's default, and that of Kubernetes.
pub const DEFAULT: &str = "cluster.local";

/// Who says which domain the Services are in.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// istiod: it calls Services so, and all rules are held against its names.
    ByIstiod(Arc<str>),
    /// A proxy, whose injector was given the same value as istiod.
    ByProxy(Arc<str>),
}

/// What a pod was started with. istiod has a default of its own; a proxy that is told nothing tells
/// nothing.
pub(super) fn said(spec: &PodSpec) -> Option<Said> {
    spec.standing_containers().find_map(|container| {
        let given = flag(container.args.as_deref().unwrap_or_default());
        match container.name.as_str() {
            "discovery" => Some(Said::ByIstiod(given.unwrap_or(DEFAULT).into())),
            // `$(POD_NAMESPACE).svc.cluster.local`: where names without a dot are looked up.
            "istio-proxy" => Some(Said::ByProxy(given?.split_once(".svc.")?.1.into())),
            _ => None,
        }
    })
}

fn flag(args: &[String]) -> Option<&str> {
    let mut args = args.iter().map(String::as_str);
    let after = args.find_map(|arg| arg.strip_prefix("--domain"))?;
    let value = after.strip_prefix('=').or_else(|| args.next().filter(|_| after.is_empty()));
    value.map(|domain| domain.trim_end_matches('.')).filter(|domain| !domain.is_empty())
}

/// What those who run say: istiod, and where none is seen the proxies. Where they contradict each
/// other it is not known what a rule by a full name is for. `is_home` tells where control planes
/// run: elsewhere anybody may have a container of that name.
pub fn domain<'a>(
    pods: impl Iterator<Item = (&'a Namespace, &'a OwnedPod)>,
    is_home: impl Fn(&Namespace) -> bool,
) -> Reading<Arc<str>> {
    let (mut control_planes, mut proxies) = (BTreeSet::new(), BTreeSet::new());
    for (namespace, owned) in pods {
        if !matches!(owned.pod.phase, Phase::Pending | Phase::Running) {
            continue;
        }
        match &owned.domain {
            Some(Said::ByIstiod(domain)) if is_home(namespace) => control_planes.insert(domain),
            Some(Said::ByProxy(domain)) => proxies.insert(domain),
            Some(Said::ByIstiod(_)) | None => false,
        };
    }
    let (who, domains) = match control_planes.is_empty() {
        true => ("proxies", proxies),
        false => ("istiod's pods", control_planes),
    };
    let mut all = domains.iter();
    match (all.next(), all.next()) {
        (None, _) => Reading::Known(DEFAULT.into()),
        (Some(only), None) => Reading::Known(Arc::clone(only)),
        (Some(one), Some(other)) => Reading::Unknown(Cause::Malformed(format!(
            "the domain of the cluster's Services, which {who} call both {one} and {other} \
             (--domain),"
        ))),
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
        let all = pods.iter().map(|(namespace, pod)| (namespace, pod));
        match domain(all, |namespace| namespace.as_str() == "istio-system") {
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
    fn nobody_else_and_nobody_who_is_gone_is_asked() {
        let feigned = pod("shop", "discovery", &["--domain", "evil.example"], "Running");
        let gone = pod("istio-system", "discovery", &["--domain", "old.example"], "Succeeded");
        assert_eq!(read(&[feigned, gone, proxy("corp.example")]).unwrap(), "corp.example");
    }

    #[test]
    fn two_domains_are_none() {
        let why = read(&[proxy("a.example"), proxy("b.example")]).unwrap_err();
        assert_eq!(
            why,
            "the domain of the cluster's Services, which proxies call both a.example and b.example \
             (--domain), cannot be understood"
        );
        read(&[istiod(&["--domain", "a.example"]), istiod(&[])]).unwrap_err();
    }
}
