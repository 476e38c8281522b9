//! Which rule is in force for a client: Istio's look-up and merge.
//!
//! Source: `pilot/pkg/model/push_context.go:setDestinationRules` and `destinationRule`,
//! `destination_rule.go:mergeDestinationRule`, `sidecar.go:SidecarScope.DestinationRule`;
//! `istio-semantics.md` B3. Compared with what a real istiod sends in `e2e/tests/truth`.

use super::{Rule, Rules};
use crate::ident::{Host, Labels, Namespace};
use crate::view::View;
use std::collections::BTreeSet;

impl Rules {
    /// The rule that may be in force for a client, merged, once for each control plane that tells
    /// something else.
    pub(super) fn in_force(
        &self,
        client: &Namespace,
        labels: &Labels,
        server: &Namespace,
        host: &Host,
    ) -> Vec<Option<Merged<'_>>> {
        self.views.each(|view| self.in_force_by(view, client, labels, server, host))
    }

    /// The rule in force for a client of this control plane. Never across namespaces: a wildcard in
    /// the client's namespace hides an exact rule beside the service (B3).
    fn in_force_by(
        &self,
        view: View<'_>,
        client: &Namespace,
        labels: &Labels,
        server: &Namespace,
        host: &Host,
    ) -> Option<Merged<'_>> {
        let own = match view.root == Some(client) {
            false => self.most_specific(view, client, host, Rule::is_visible_in_its_own_namespace),
            true => self.most_specific(view, client, host, Rule::is_private),
        };
        if !own.is_empty() {
            // What stands here is all that counts, also where no rule of it is for this client.
            return picked(own, client, labels);
        }
        for namespace in [Some(server), view.root].into_iter().flatten() {
            // The most specific host is chosen before visibility is asked; a hidden one does not
            // fall back to a less specific one of the same namespace.
            let all = self.most_specific(view, namespace, host, |rule| !rule.is_private());
            let visible: Vec<_> =
                all.into_iter().filter(|merged| merged.is_exported_to(client)).collect();
            if !visible.is_empty() {
                return picked(visible, client, labels);
            }
        }
        None
    }

    /// The rules of `namespace` for the most specific host that covers `host`, merged.
    fn most_specific(
        &self,
        view: View<'_>,
        namespace: &Namespace,
        host: &Host,
        admit: impl Fn(&Rule) -> bool,
    ) -> Vec<Merged<'_>> {
        let covering: Vec<_> = self
            .of(namespace)
            .iter()
            .filter(|rule| view.reads(rule.revision.as_deref()))
            .filter(|rule| admit(rule) && covers(&rule.host, host))
            .collect();
        let best = covering.iter().map(|rule| specificity(&rule.host)).max();
        let chosen = covering.into_iter().filter(|rule| Some(specificity(&rule.host)) == best);
        chosen.fold(vec![], merge)
    }
}

/// Rules of one host that Istio takes for one.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Merged<'a> {
    export_to: BTreeSet<&'a str>,
    selector: Option<&'a Labels>,
    /// In the order in which they were merged.
    pub(super) parts: Vec<&'a Rule>,
}

impl<'a> Merged<'a> {
    /// `trafficPolicy` is taken whole from the first rule that has one, never field by field.
    pub(super) fn speaks(&self) -> Option<&'a Rule> {
        self.parts.iter().copied().find(|rule| rule.policy.is_some())
    }

    fn is_exported_to(&self, client: &Namespace) -> bool {
        let names = ["*", client.as_str()];
        self.export_to.is_empty() || names.iter().any(|to| self.export_to.contains(to))
    }
}

/// Adds one more rule of the same host, in Istio's order. Rules that are exported alike, and both
/// without a selector or with the same, become one; the others stand beside each other
/// (`destination_rule.go:mergeDestinationRule`, with the enhanced merge that is the default).
fn merge<'a>(mut all: Vec<Merged<'a>>, rule: &'a Rule) -> Vec<Merged<'a>> {
    let new =
        Merged { export_to: rule.exports(), selector: rule.selector.as_ref(), parts: vec![rule] };
    let mut stands_alone = true;
    for merged in &mut all {
        if new.export_to == merged.export_to {
            stands_alone = false;
        } else {
            stands_alone = true;
            if merged.export_to.is_empty() || !new.export_to.is_superset(&merged.export_to) {
                continue;
            }
        }
        match (new.selector, merged.selector) {
            (Some(new), Some(old)) if new != old => {
                stands_alone = true;
                continue;
            }
            (Some(_), Some(_)) | (None, None) => stands_alone = false,
            (Some(_), None) | (None, Some(_)) => {}
        }
        merged.parts.push(rule);
    }
    if stands_alone {
        all.push(new);
    }
    all
}

/// Of the rules that stand beside each other: the first whose selector selects the client, else the
/// last without one (`sidecar.go:SidecarScope.DestinationRule`).
fn picked<'a>(all: Vec<Merged<'a>>, client: &Namespace, labels: &Labels) -> Option<Merged<'a>> {
    let own = |merged: &Merged<'_>| merged.parts.iter().all(|rule| rule.namespace == *client);
    let selects = |merged: &&Merged<'_>| {
        own(merged) && merged.selector.is_some_and(|selector| selector.select(labels))
    };
    let chosen = all.iter().find(selects);
    chosen.or_else(|| all.iter().rfind(|merged| merged.selector.is_none())).cloned()
}

impl Rule {
    /// `exportTo`; a rule with a selector is private, whatever it says.
    fn exports(&self) -> BTreeSet<&str> {
        match self.selector {
            Some(_) => BTreeSet::from(["."]),
            None => self.export_to.iter().map(String::as_str).collect(),
        }
    }

    fn is_visible_in_its_own_namespace(&self) -> bool {
        let exports = self.exports();
        exports.is_empty()
            || ["*", ".", self.namespace.as_str()].iter().any(|to| exports.contains(to))
    }

    /// Exported to its own namespace only.
    fn is_private(&self) -> bool {
        let exports = self.exports();
        exports.len() == 1 && [".", self.namespace.as_str()].iter().any(|to| exports.contains(to))
    }
}

/// `*` covers everything, `*.suffix` covers what ends in `.suffix`, anything else only itself.
fn covers(rule: &Host, host: &Host) -> bool {
    match rule.as_str().strip_prefix('*') {
        Some(suffix) => host.as_str().ends_with(suffix),
        None => rule == host,
    }
}

/// Exact beats wildcard, among wildcards the longest wins.
fn specificity(host: &Host) -> (bool, usize) {
    (!host.as_str().starts_with('*'), host.as_str().len())
}
