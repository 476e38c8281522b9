//! What a request is about, by its method, path and query.

use axum::http::Method;

/// What a request is about.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// A write to a PeerAuthentication.
    Policy,
    /// The same with `dryRun=All`.
    DryRun,
    /// A write to a MeshRollout's or MeshReport's status, or a MeshReport itself.
    Report,
    /// An Event.
    Event,
    /// The Lease, read or written; and any other object by which replicas agree who leads.
    Lease,
    /// One object.
    Get,
    /// Many objects.
    List,
    /// A watch.
    Watch,
    /// Anything else, such as the version.
    Other,
}

pub(super) fn class(method: &Method, path: &str, query: &str) -> Class {
    let flag = |name: &str| query.split('&').any(|one| one.starts_with(name));
    let segments: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let about = |name: &str| segments.contains(&name);
    if about("leases") || about("meshfences") {
        return Class::Lease;
    }
    if [Method::GET, Method::HEAD].contains(method) {
        return match segments.as_slice() {
            _ if flag("watch=1") || flag("watch=true") => Class::Watch,
            ["version"] | ["api"] | ["apis"] => Class::Other,
            _ if flag("limit=") || flag("resourceVersion=") || is_collection(&segments) => {
                Class::List
            }
            _ => Class::Get,
        };
    }
    match () {
        () if about("peerauthentications") && flag("dryRun=") => Class::DryRun,
        () if about("peerauthentications") => Class::Policy,
        () if about("events") => Class::Event,
        () if about("meshrollouts") || about("meshreports") => Class::Report,
        () => Class::Other,
    }
}

/// `/api/v1/…` and `/apis/GROUP/VERSION/…`, with a namespace or without, and no name behind.
fn is_collection(segments: &[&str]) -> bool {
    let (["api", _, rest @ ..] | ["apis", _, _, rest @ ..]) = segments else { return false };
    matches!(rest, [_] | ["namespaces", _, _])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        let policies = "/apis/security.istio.io/v1/namespaces/pay/peerauthentications";
        for (method, path, query, wanted) in [
            ("PATCH", format!("{policies}/default"), "fieldManager=x", Class::Policy),
            ("PATCH", format!("{policies}/default"), "dryRun=All&fieldManager=x", Class::DryRun),
            ("GET", format!("{policies}/default"), "", Class::Get),
            ("GET", policies.to_owned(), "", Class::List),
            ("GET", "/api/v1/pods".to_owned(), "watch=true&resourceVersion=4", Class::Watch),
            ("GET", "/api/v1/namespaces/pay".to_owned(), "", Class::Get),
            ("GET", "/version".to_owned(), "", Class::Other),
        ] {
            let method = method.parse().unwrap();
            assert_eq!(class(&method, &path, query), wanted, "{method} {path} {query}");
        }
    }
}
