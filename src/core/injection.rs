//! Would a pod made now get a sidecar? Two stages: the apiserver picks a webhook by the selectors
//! that really exist in the cluster, then istiod decides.
//!
//! Source: Istio `pkg/kube/inject/inject.go:injectRequired` and the chart's
//! `mutatingwebhook.yaml` (`istio-semantics.md` C1, C2).

use crate::exposure::Inbound;
use crate::ident::{Labels, Namespace, Selector, WorkloadRef};
use crate::workload::{Identity, Phase, Pod, Proxy, TO_BE_MADE};
use std::sync::Arc;

const INJECT: &str = "sidecar.istio.io/inject";

/// A pod's beats its namespace's.
const DATAPLANE: &str = "istio.io/dataplane-mode";

/// Namespaces istiod never injects into (`pkg/kube/inject/initializer.go:IgnoredNamespaces`).
const IGNORED: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// One entry of an injector's MutatingWebhookConfiguration.
#[derive(Clone, Debug, PartialEq)]
pub struct Injector {
    /// `configuration/entry`, for messages.
    pub name: String,
    /// The label `istio.io/rev` of the configuration.
    pub revision: String,
    /// Which namespaces it is called for.
    pub namespaces: Selector,
    /// Which pods it is called for.
    pub pods: Selector,
}

/// What injection looks at in a pod template, or in a pod that nothing owns.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Template {
    /// The pod's labels.
    pub labels: Labels,
    /// The deprecated annotation `sidecar.istio.io/inject`.
    pub inject_annotation: Option<String>,
    /// The annotation `inject.istio.io/templates`: what it comes with in place of a sidecar.
    pub templates: Option<String>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// What a sidecar of it would capture, and who would come in past its Services.
    pub inbound: Arc<Inbound>,
    /// As whom its pods would speak.
    pub identity: Arc<Identity>,
}

/// What becomes of a pod made now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Injection {
    /// It gets a sidecar of this revision.
    Sidecar {
        /// The revision of the injector that takes it.
        revision: String,
    },
    /// It does not.
    None(NotInjected),
}

/// Why a pod made now would have no sidecar.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NotInjected {
    /// Nothing asks for one.
    NotSelected,
    /// The namespace says `istio-injection: disabled`, which beats everything on the pod.
    NamespaceDisabled,
    /// The template says `sidecar.istio.io/inject: "false"`.
    TemplateOptsOut,
    /// `hostNetwork: true`.
    HostNetwork,
    /// The namespace is one that istiod never injects into.
    IgnoredNamespace,
    /// A label names a revision or tag that no injector serves.
    RevisionUnserved(String),
    /// It is sent through ztunnel instead.
    Ambient,
}

/// What a pod from `template`, made now in `namespace`, would get.
pub fn decide(
    namespace: &Namespace,
    namespace_labels: &Labels,
    template: &Template,
    injectors: &[Injector],
) -> Injection {
    let called = injectors.iter().find(|injector| {
        injector.namespaces.matches(namespace_labels) && injector.pods.matches(&template.labels)
    });
    let opts_out = match template.labels.value(INJECT) {
        Some(label) => label == "false",
        // The annotation counts only where the label is absent.
        None => template.inject_annotation.as_deref() == Some("false"),
    };

    if template.host_network {
        return Injection::None(NotInjected::HostNetwork);
    }
    if IGNORED.contains(&namespace.as_str()) {
        return Injection::None(NotInjected::IgnoredNamespace);
    }
    if let Some(injector) = called.filter(|_| !opts_out) {
        return Injection::Sidecar { revision: injector.revision.clone() };
    }
    let dataplane = template.labels.value(DATAPLANE).or_else(|| namespace_labels.value(DATAPLANE));
    if dataplane == Some("ambient") {
        return Injection::None(NotInjected::Ambient);
    }
    if opts_out {
        return Injection::None(NotInjected::TemplateOptsOut);
    }
    Injection::None(why_not_called(namespace_labels, &template.labels))
}

/// What the annotation `inject.istio.io/templates` gives a pod in place of a sidecar.
pub fn in_place_of_a_sidecar(templates: &str) -> Option<Proxy> {
    let names = |what: &str| templates.contains(what);
    match (names("grpc-"), names("gateway") || names("waypoint")) {
        (true, _) => Some(Proxy::Proxyless),
        (false, true) => Some(Proxy::Gateway),
        (false, false) => None,
    }
}

impl Template {
    /// How a pod made from it now in `namespace`, which has these labels, takes part in the mesh.
    pub(crate) fn proxy(
        &self,
        namespace: &Namespace,
        namespace_labels: &Labels,
        injectors: &[Injector],
    ) -> Proxy {
        match decide(namespace, namespace_labels, self, injectors) {
            Injection::Sidecar { revision } => {
                let mode = self.labels.value("security.istio.io/tlsMode");
                let announces_tls = mode.is_none_or(|mode| mode == "istio");
                let other = self.templates.as_deref().and_then(in_place_of_a_sidecar);
                other.unwrap_or(Proxy::Sidecar { revision: Some(revision), announces_tls })
            }
            Injection::None(NotInjected::Ambient) => Proxy::Ambient,
            Injection::None(_) => Proxy::None,
        }
    }

    /// A pod of `workload` made from it now, in a namespace with these labels.
    pub(crate) fn pod(
        &self,
        workload: &WorkloadRef,
        namespace_labels: &Labels,
        injectors: &[Injector],
    ) -> Pod {
        Pod {
            name: format!("{}{TO_BE_MADE}", workload.name),
            labels: Arc::new(self.labels.clone()),
            proxy: self.proxy(&workload.namespace, namespace_labels, injectors),
            phase: Phase::Running,
            ready_since: None,
            host_network: self.host_network,
            restarts: 0,
            inbound: self.inbound.clone(),
            start: Arc::default(),
            identity: self.identity.clone(),
        }
    }
}

fn why_not_called(namespace: &Labels, pod: &Labels) -> NotInjected {
    match namespace.value("istio-injection") {
        Some("enabled") => NotInjected::RevisionUnserved("default".into()),
        Some(_) => NotInjected::NamespaceDisabled,
        None => match namespace.value("istio.io/rev").or_else(|| pod.value("istio.io/rev")) {
            Some(revision) => NotInjected::RevisionUnserved(revision.into()),
            None => NotInjected::NotSelected,
        },
    }
}

/// The entries that Istio's chart installs for `revision`; `default_too` adds those of the default
/// revision or tag. For files and tests, where no cluster can be asked.
pub fn chart_injectors(revision: &str, default_too: bool) -> Vec<Injector> {
    use crate::ident::{Operator, Requirement};
    let is_in = |key: &str, value: &str| Requirement {
        key: key.into(),
        operator: Operator::In(vec![value.into()]),
    };
    let not_false =
        || Requirement { key: INJECT.into(), operator: Operator::NotIn(vec!["false".into()]) };
    let absent = |key: &str| Requirement { key: key.into(), operator: Operator::DoesNotExist };
    let entry = |name: &str, namespaces, pods| Injector {
        name: format!("istio-sidecar-injector/{name}"),
        revision: revision.into(),
        namespaces: Selector::new(namespaces),
        pods: Selector::new(pods),
    };
    let (rev, injection) = ("istio.io/rev", "istio-injection");
    let mut entries = vec![
        entry("rev.namespace", vec![is_in(rev, revision), absent(injection)], vec![not_false()]),
        entry(
            "rev.object",
            vec![absent(rev), absent(injection)],
            vec![not_false(), is_in(rev, revision)],
        ),
    ];
    if default_too {
        entries.push(entry("namespace", vec![is_in(injection, "enabled")], vec![not_false()]));
        entries.push(entry(
            "object",
            vec![absent(injection), absent(rev)],
            vec![is_in(INJECT, "true"), absent(rev)],
        ));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(namespace: &[(&str, &str)], pod: &[(&str, &str)]) -> Option<String> {
        let mut injectors = chart_injectors("default", true);
        injectors.extend(chart_injectors("canary", false));
        let template = Template { labels: pod.iter().copied().collect(), ..Template::default() };
        let labels = namespace.iter().copied().collect();
        match decide(&"shop".into(), &labels, &template, &injectors) {
            Injection::Sidecar { revision } => Some(revision),
            Injection::None(_) => None,
        }
    }

    #[test]
    fn a_pod_goes_through_ztunnel_where_it_gets_no_sidecar_and_nobody_says_otherwise() {
        let (ambient, none) = ((DATAPLANE, "ambient"), (DATAPLANE, "none"));
        let enabled = ("istio-injection", "enabled");
        let is_ambient = |namespace: &[(&str, &str)], pod: &[(&str, &str)], host_network: bool| {
            let labels = pod.iter().copied().collect();
            let template = Template { labels, host_network, ..Template::default() };
            let (injectors, labels) =
                (chart_injectors("default", true), namespace.iter().copied().collect());
            decide(&"shop".into(), &labels, &template, &injectors)
                == Injection::None(NotInjected::Ambient)
        };
        assert!(is_ambient(&[ambient], &[], false));
        assert!(is_ambient(&[ambient], &[(INJECT, "false")], false));
        assert!(is_ambient(&[], &[ambient], false));
        assert!(!is_ambient(&[ambient], &[none], false));
        assert!(!is_ambient(&[ambient], &[], true));
        assert!(!is_ambient(&[ambient, enabled], &[], false));
        assert!(!is_ambient(&[], &[], false));
    }

    #[test]
    fn what_stands_in_place_of_a_sidecar_is_said_by_the_template() {
        let proxy = |templates: &str| {
            let template = Template { templates: Some(templates.into()), ..Template::default() };
            let labels = [("istio-injection", "enabled")].into_iter().collect();
            template.proxy(&"shop".into(), &labels, &chart_injectors("default", true))
        };
        assert_eq!(proxy("gateway"), Proxy::Gateway);
        assert_eq!(proxy("grpc-agent"), Proxy::Proxyless);
        assert!(matches!(proxy("sidecar,custom"), Proxy::Sidecar { .. }));
    }

    /// The combined truth table of `istio-semantics.md` C2, row by row.
    #[test]
    fn truth_table_of_istio_holds() {
        let (injection, rev) = ("istio-injection", "istio.io/rev");
        let by = |revision: &str| Some(revision.to_owned());
        type Row<'a> = (&'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)], Option<String>);
        let rows: [Row<'_>; 15] = [
            (&[(injection, "enabled")], &[], by("default")),
            (&[(injection, "enabled")], &[(INJECT, "true")], by("default")),
            (&[(injection, "enabled")], &[(rev, "canary")], by("default")),
            (&[(injection, "enabled")], &[(INJECT, "false")], None),
            (&[(injection, "enabled"), (rev, "canary")], &[], by("default")),
            (&[(injection, "disabled")], &[(INJECT, "true")], None),
            (&[(rev, "canary")], &[], by("canary")),
            (&[(rev, "canary")], &[(INJECT, "true")], by("canary")),
            (&[(rev, "canary")], &[(INJECT, "false")], None),
            (&[(rev, "gone")], &[], None),
            (&[], &[(INJECT, "true")], by("default")),
            (&[], &[(INJECT, "true"), (rev, "canary")], by("canary")),
            (&[], &[(rev, "canary")], by("canary")),
            (&[], &[(INJECT, "false"), (rev, "canary")], None),
            (&[], &[], None),
        ];
        for (namespace, pod, expected) in rows {
            assert_eq!(decided(namespace, pod), expected, "{namespace:?} {pod:?}");
        }
    }

    #[test]
    fn the_annotation_opts_out_only_without_the_label() {
        let injectors = chart_injectors("default", true);
        let labels = Labels::from_iter([("istio-injection", "enabled")]);
        let mut template =
            Template { inject_annotation: Some("false".into()), ..Template::default() };
        let decided = |template: &Template| decide(&"shop".into(), &labels, template, &injectors);
        assert_eq!(decided(&template), Injection::None(NotInjected::TemplateOptsOut));
        template.labels = Labels::from_iter([(INJECT, "true")]);
        assert_eq!(decided(&template), Injection::Sidecar { revision: "default".into() });
    }

    #[test]
    fn host_network_and_system_namespaces_are_never_injected() {
        let injectors = chart_injectors("default", true);
        let labels = Labels::from_iter([("istio-injection", "enabled")]);
        let host = Template { host_network: true, ..Template::default() };
        assert_eq!(
            decide(&"shop".into(), &labels, &host, &injectors),
            Injection::None(NotInjected::HostNetwork)
        );
        assert_eq!(
            decide(&"kube-system".into(), &labels, &Template::default(), &injectors),
            Injection::None(NotInjected::IgnoredNamespace)
        );
    }
}
