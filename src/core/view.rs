//! Whose configuration a client's proxy is told: its control plane reads one root namespace, and of
//! objects that are bound to a revision (`istio.io/rev`) those of its own alone.
//!
//! Which control plane is a client's is not known where there are several: what any of them would
//! tell it may be in force.
//!
//! Source: Istio `pkg/config/model.go:LabelsInRevision` (`istio-semantics.md` A8).

use crate::ident::Namespace;
use std::collections::BTreeSet;

/// What a control plane reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    /// Its root namespace; `None` where the mesh's configuration is not known.
    pub(crate) root: Option<&'a Namespace>,
    revision: Option<&'a str>,
}

impl View<'_> {
    /// Whether it reads an object that is bound to `revision`, or to none.
    pub(crate) fn reads(self, revision: Option<&str>) -> bool {
        revision.is_none() || revision == self.revision
    }
}

/// The control planes that there may be.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Views {
    roots: Vec<Namespace>,
    /// Those that objects are bound to; a control plane of any other reads what is bound to none.
    revisions: BTreeSet<String>,
}

impl Views {
    pub(crate) fn new<'a>(
        roots: impl IntoIterator<Item = Namespace>,
        revisions: impl IntoIterator<Item = &'a String>,
    ) -> Self {
        let (roots, revisions) = (roots.into_iter(), revisions.into_iter());
        Self { roots: roots.collect(), revisions: revisions.cloned().collect() }
    }

    /// What `told` makes of each of them, each answer once.
    pub(crate) fn each<'a, T: PartialEq>(&'a self, told: impl Fn(View<'a>) -> T) -> Vec<T> {
        let mut all = vec![];
        let no_root = self.roots.is_empty().then_some(None);
        let roots = self.roots.iter().map(Some).chain(no_root);
        for root in roots {
            for revision in std::iter::once(None).chain(self.revisions.iter().map(Some)) {
                let one = told(View { root, revision: revision.map(String::as_str) });
                if !all.contains(&one) {
                    all.push(one);
                }
            }
        }
        all
    }
}
