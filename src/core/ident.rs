//! Identities: who a fact is about. No naked strings travel through the core.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result as FmtResult};
use std::sync::Arc;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
        pub struct $name(String);

        impl $name {
            /// Takes the name as the apiserver gave it; it has validated the form already.
            pub fn new(name: impl Into<String>) -> Self {
                Self(name.into())
            }

            /// The name as Kubernetes spells it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Display for $name {
            fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self::new(name)
            }
        }
    };
}

name! {
    /// A Kubernetes namespace.
    Namespace
}
name! {
    /// A service host, fully qualified: `orders.shop.svc.cluster.local`; also a wildcard such as
    /// `*.shop.svc.cluster.local` where a DestinationRule says so.
    Host
}
name! {
    /// The `metadata.uid` of an object: tells a recreated object from the one we knew.
    Uid
}

/// A port number. PeerAuthentication speaks of container ports, DestinationRule of Service ports.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Port(pub u16);

impl Display for Port {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        self.0.fmt(f)
    }
}

/// Who runs a set of like pods: a Deployment (not its ReplicaSet), StatefulSet, DaemonSet, Job, or
/// the Pod itself when nothing owns it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct WorkloadRef {
    /// Where it runs.
    pub namespace: Namespace,
    /// The owner's kind, as Kubernetes spells it.
    pub kind: String,
    /// The owner's name.
    pub name: String,
}

impl WorkloadRef {
    /// `kind` and `name` of the owner in `namespace`.
    pub fn new(namespace: impl Into<Namespace>, kind: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), kind: kind.into(), name: name.into() }
    }
}

impl Display for WorkloadRef {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One pod, by name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PodRef {
    /// Where it runs.
    pub namespace: Namespace,
    /// The pod's name.
    pub name: String,
}

impl Display for PodRef {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The labels of one object.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// The value of `key`, if it is set.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// True when every label of `self` is on `labels` with the same value: Istio's selector test,
    /// exact and without expressions (`istio-semantics.md` A1).
    pub fn select(&self, labels: &Labels) -> bool {
        self.0.iter().all(|(key, value)| labels.value(key) == Some(value))
    }

    /// No label at all. An empty selector selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each label, by its key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The same labels with `key` set to `value`.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// The same labels without `key`.
    pub fn without(mut self, key: &str) -> Self {
        self.0.remove(key);
        self
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        Self(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// A Kubernetes label selector with expressions, as webhooks and plans carry it.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Selector(Vec<Requirement>);

/// One requirement of a [`Selector`].
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What must hold for it.
    pub operator: Operator,
}

/// What a [`Requirement`] demands of its label.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Operator {
    /// Present with one of these values.
    In(Vec<String>),
    /// Absent, or present with none of these values.
    NotIn(Vec<String>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
    /// An operator this version does not know: matches nothing.
    Unknown(String),
}

impl Selector {
    /// All of `requirements` must hold; none selects everything.
    pub fn new(requirements: Vec<Requirement>) -> Self {
        Self(requirements)
    }

    /// True when every requirement holds for `labels`.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.value(&requirement.key);
            match &requirement.operator {
                Operator::In(values) => value.is_some_and(|v| values.iter().any(|one| one == v)),
                Operator::NotIn(values) => {
                    !value.is_some_and(|v| values.iter().any(|one| one == v))
                }
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
                Operator::Unknown(_) => false,
            }
        })
    }

    /// The requirements, in the order given.
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }
}
/// Objects by the namespace that each is `of`, those of one namespace in `order`.
pub(crate) fn by_namespace<T>(
    all: impl IntoIterator<Item = T>,
    of: impl Fn(&T) -> &Namespace,
    order: impl Fn(&T, &T) -> Ordering,
) -> BTreeMap<Namespace, Arc<Vec<T>>> {
    let mut sorted: BTreeMap<Namespace, Vec<T>> = BTreeMap::new();
    for one in all {
        sorted.entry(of(&one).clone()).or_default().push(one);
    }
    let sort = |(namespace, mut here): (Namespace, Vec<T>)| {
        here.sort_by(&order);
        (namespace, Arc::new(here))
    };
    sorted.into_iter().map(sort).collect()
}
