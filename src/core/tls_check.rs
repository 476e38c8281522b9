//! Who speaks what to whom, and what becomes of it: today, and once STRICT is in force.

use crate::call::{Accepts, Because, Bytes, Call, Fate, Sent};
use crate::client_tls::ClientTls;
use crate::effective::{DecidedBy, Policies};
use crate::ident::{Host, Namespace, Port, WorkloadRef};
use crate::mode::Mode;
use crate::policy::Policy;
use crate::snapshot::Snapshot;
use crate::workload::{NamespaceFacts, Pod, Proxy, Service, ServicePort, Workload};
use std::collections::BTreeSet;

/// Every call that the objects allow, at two times.
pub struct TlsCheck<'a> {
    snapshot: &'a Snapshot,
    after: Policies,
    servers: Vec<Server<'a>>,
}

/// One port of a Service with the pods behind it, like ones together.
struct Server<'a> {
    facts: &'a NamespaceFacts,
    service: &'a Service,
    port: &'a ServicePort,
    behind: Vec<Alike<'a>>,
}

/// Pods of one workload with the same labels and the same proxy.
struct Alike<'a> {
    workload: &'a Workload,
    pod: &'a Pod,
    count: usize,
}

/// Pods of one workload that call alike, one Service port, and endpoints that fare alike.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row<'a> {
    /// Who calls.
    pub client: &'a WorkloadRef,
    /// The Service's full name.
    pub host: &'a Host,
    /// The port that clients dial.
    pub service_port: Port,
    /// The container port behind it, if it is known.
    pub target_port: Option<Port>,
    /// What the client puts on the wire, and why.
    pub sent: Sent<'a>,
    /// Who answers.
    pub server: &'a WorkloadRef,
    /// These pods of it have a sidecar.
    pub meshed: bool,
    /// So many of its pods fare like this.
    pub pods: usize,
    /// What they take.
    pub accepts: Accepts<'a>,
    /// How the call ends today.
    pub today: Fate,
    /// How it ends once STRICT is in force.
    pub after_strict: Fate,
    /// A subset of the host for which a rule says something else.
    pub subset: Option<&'a str>,
}

impl<'a> TlsCheck<'a> {
    /// `strict` are the namespaces that would be STRICT as a whole: where a policy for the whole
    /// namespace is in force it says so, else one is added. Others stay as they are.
    pub fn new(snapshot: &'a Snapshot, strict: &BTreeSet<Namespace>) -> Self {
        Self { snapshot, after: after(snapshot, strict), servers: servers(snapshot) }
    }

    /// The rows of the clients that `asks` admits, at the hosts and ports that `at` admits.
    pub fn rows(
        &self,
        asks: impl Fn(&WorkloadRef) -> bool,
        at: impl Fn(&Host, Port) -> bool,
    ) -> impl Iterator<Item = Row<'a>> {
        let servers: Vec<_> = self
            .servers
            .iter()
            .filter(|server| at(&server.service.host, server.port.port))
            .collect();
        self.snapshot
            .namespaces
            .values()
            .flat_map(|facts| facts.workloads.values())
            .filter(move |workload| asks(&workload.id))
            .flat_map(move |client| {
                let pods = alike(client.running().map(|pod| (client, pod)));
                servers
                    .iter()
                    .flat_map(|server| self.between(client, &pods, server))
                    .collect::<Vec<_>>()
            })
    }

    fn between(
        &self,
        client: &'a Workload,
        pods: &[Alike<'a>],
        server: &Server<'a>,
    ) -> Vec<Row<'a>> {
        let mut rows = vec![];
        for from in pods {
            let rules = self.call(client, from.pod, server).rules();
            // Whatever their control plane may tell them.
            for rules in rules.chunk_by(|_, next| next.subset.is_some()) {
                let mut of_these: Vec<Row<'a>> = vec![];
                for to in &server.behind {
                    let row = self.row(client, from.pod, server, to, rules);
                    let like =
                        |one: &&mut Row<'a>| Row { pods: row.pods, ..(**one).clone() } == row;
                    match of_these.iter_mut().find(like) {
                        Some(like) => like.pods += row.pods,
                        None => of_these.push(row),
                    }
                }
                // Clients that differ in labels alone mostly fare alike.
                of_these.retain(|row| !rows.contains(row));
                rows.append(&mut of_these);
            }
        }
        rows
    }

    fn call(&self, client: &'a Workload, pod: &'a Pod, server: &Server<'a>) -> Call<'a> {
        Call {
            snapshot: self.snapshot,
            policies: &self.snapshot.policies,
            client: &client.id.namespace,
            pod,
            facts: server.facts,
            service: server.service,
            port: server.port,
        }
    }

    /// `rules` are those of one control plane: the whole host first.
    fn row(
        &self,
        client: &'a Workload,
        from: &'a Pod,
        server: &Server<'a>,
        to: &Alike<'a>,
        rules: &[ClientTls<'a>],
    ) -> Row<'a> {
        let now = self.call(client, from, server);
        let after = Call { policies: &self.after, ..now };
        // Rules come to something for the whole host, if only to leave the choice automatic.
        let (whole, subsets) = rules.split_first().expect("the whole host is always there");
        let (sent, accepts) = (now.sent(whole, to.pod), now.accepts(to.pod));
        let other = |subset: &&ClientTls<'a>| now.sent(subset, to.pod).bytes != sent.bytes;
        Row {
            client: &client.id,
            host: &server.service.host,
            service_port: server.port.port,
            target_port: server.port.target,
            server: &to.workload.id,
            meshed: matches!(to.pod.proxy, Proxy::Sidecar { .. } | Proxy::Ambient),
            pods: to.count,
            today: Fate::of(&sent.bytes, &accepts),
            after_strict: Fate::of(&after.sent(whole, to.pod).bytes, &after.accepts(to.pod)),
            subset: subsets.iter().find(other).and_then(|subset| subset.subset),
            sent,
            accepts,
        }
    }
}

fn after(snapshot: &Snapshot, strict: &BTreeSet<Namespace>) -> Policies {
    let pods = snapshot
        .namespaces
        .values()
        .flat_map(|facts| facts.workloads.values())
        .flat_map(|workload| workload.pods.iter());
    let revisions = pods.map(Pod::revision).chain([None]).collect();
    let mut after = snapshot.policies.clone();
    for namespace in strict {
        // No object can be called so: it stands beside all others.
        let added = Policy::for_all_of(namespace, "STRICT for all", Mode::Strict);
        after.make_strict(namespace, &revisions, &added);
    }
    after
}

fn servers(snapshot: &Snapshot) -> Vec<Server<'_>> {
    let mut servers = vec![];
    for facts in snapshot.namespaces.values() {
        for service in &facts.services {
            for port in &service.ports {
                let behind = alike(facts.endpoints(service));
                servers.push(Server { facts, service, port, behind });
            }
        }
    }
    servers.sort_by_key(|server| (&server.service.host, server.port.port));
    servers
}

fn alike<'a>(pods: impl Iterator<Item = (&'a Workload, &'a Pod)>) -> Vec<Alike<'a>> {
    let mut all: Vec<Alike<'a>> = vec![];
    for (workload, pod) in pods {
        let like = |one: &&mut Alike<'a>| {
            let same = |of: &Pod| (&of.labels, &of.proxy) == (&pod.labels, &pod.proxy);
            one.workload.id == workload.id && same(one.pod)
        };
        match all.iter_mut().find(like) {
            Some(like) => like.count += 1,
            None => all.push(Alike { workload, pod, count: 1 }),
        }
    }
    all
}

impl Row<'_> {
    /// `STRICT`, `PERMISSIVE`, `DISABLE`; `None` without a proxy; `Unknown`.
    pub fn server_mode(&self) -> &'static str {
        match &self.accepts {
            Accepts::NoProxy => "None",
            Accepts::Mode(effective) => effective.mode.as_str(),
            Accepts::Unknown(_) => "Unknown",
        }
    }

    /// The object that decides what the server takes, or the lack of one.
    pub fn server_decided_by(&self) -> String {
        match &self.accepts {
            Accepts::NoProxy => "no proxy".into(),
            Accepts::Unknown(_) => "unknown".into(),
            Accepts::Mode(effective) => match effective.decided_by {
                DecidedBy::Default => "Istio's default".into(),
                decided_by => Because::from(decided_by).to_string(),
            },
        }
    }

    /// One sentence: what is sent and why, what is taken, and what STRICT changes.
    pub fn why(&self) -> String {
        let Sent { bytes, by } = &self.sent;
        let sent = match (bytes, by) {
            (Bytes::Unknown(why), _) => format!("what is sent cannot be told: {why}"),
            (_, Because::Client) => "the client has no proxy: it sends no mutual TLS".into(),
            (Bytes::IstioMutual, Because::Automatic) => "the client starts mutual TLS".into(),
            (_, Because::Automatic) => "the pods do not announce mutual TLS: plaintext".into(),
            (_, Because::MeshConfig) => {
                "automatic mutual TLS is off and no rule turns it on: plaintext".into()
            }
            (_, Because::Policy(_)) => format!("{by} says DISABLE and clients go by it: plaintext"),
            (_, Because::Unimported(_)) => {
                format!("{by} does not import the Service: it is sent on as it is")
            }
            (Bytes::Tunnel, _) => "ztunnel sends it through the mesh's tunnel".into(),
            (_, Because::Ztunnel) => "the pods offer ztunnel no tunnel: plaintext".into(),
            (_, Because::Mixed) => {
                "headless or passthrough with an endpoint outside the mesh: plaintext to all".into()
            }
            (bytes, Because::Rule(_)) => format!("{by} makes clients send {}", bytes.name()),
        };
        let taken = match &self.accepts {
            Accepts::NoProxy => "the server has no proxy".into(),
            Accepts::Unknown(why) => format!("what is taken cannot be told: {why}"),
            Accepts::Mode(effective) => match effective.mode {
                Mode::Disable => "the server takes no mutual TLS".into(),
                Mode::Permissive => "the server takes both".to_owned(),
                Mode::Strict => "the server takes mutual TLS only".into(),
            },
        };
        let foreign = match bytes {
            Bytes::Foreign(_) if self.today == Fate::Unknown => {
                ", and it works only where the application itself ends that TLS"
            }
            _ => "",
        };
        let change = match (self.today, self.after_strict) {
            (Fate::Fails, Fate::Fails) => "; it fails today".into(),
            (today, after) if today != after => format!("; once STRICT: {}", after.name()),
            _ => String::new(),
        };
        let subset = self.subset.map_or_else(String::new, |subset| {
            format!("; subset {subset} is sent something else, where a route leads to it")
        });
        format!("{sent}; {taken}{foreign}{change}{subset}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_tls::TlsMode;
    use crate::testing::World;
    use std::sync::Arc;

    const CATALOG: &str = "catalog.catalog.svc.cluster.local";

    /// Client, server, pods, today, once STRICT.
    fn rows(world: &World, strict: &[&str]) -> Vec<(String, String, usize, Fate, Fate)> {
        let strict = strict.iter().map(|name| Namespace::from(*name)).collect();
        let check = TlsCheck::new(&world.snapshot, &strict);
        let of_front = |client: &WorkloadRef| client.namespace.as_str() == "front";
        let rows = check.rows(of_front, |host, _| host.as_str() == CATALOG);
        rows.map(|row| {
            (row.client.to_string(), row.server.to_string(), row.pods, row.today, row.after_strict)
        })
        .collect()
    }

    fn row(pods: usize, today: Fate, after: Fate) -> (String, String, usize, Fate, Fate) {
        ("front/front".into(), "catalog/catalog".into(), pods, today, after)
    }

    #[test]
    fn like_endpoints_are_one_row_and_unlike_ones_two() {
        use Fate::{MutualTls, Plaintext};
        let mut world = World::shop();
        assert_eq!(rows(&world, &["catalog"]), [row(2, MutualTls, MutualTls)]);
        // As the pods of a StatefulSet are.
        world.edit("catalog", |facts| {
            let pod = &mut facts.workloads.values_mut().next().unwrap().pods[1];
            let own = [("app", "catalog"), ("apps.kubernetes.io/pod-index", "1")];
            pod.labels = Arc::new(own.into_iter().collect());
        });
        assert_eq!(rows(&world, &["catalog"]), [row(2, MutualTls, MutualTls)]);
        world.edit("catalog", |facts| {
            facts.workloads.values_mut().next().unwrap().pods[1].proxy = Proxy::None;
        });
        let two = [row(1, MutualTls, MutualTls), row(1, Plaintext, Plaintext)];
        assert_eq!(rows(&world, &["catalog"]), two);
    }

    #[test]
    fn strict_is_in_force_where_it_is_asked_for_and_nowhere_else() {
        use Fate::{Fails, Plaintext};
        let mut world = World::shop();
        world.rule("front", CATALOG, TlsMode::Disable);
        assert_eq!(rows(&world, &["catalog"]), [row(2, Plaintext, Fails)]);
        assert_eq!(rows(&world, &["orders"]), [row(2, Plaintext, Plaintext)]);
    }

    #[test]
    fn clients_go_by_the_policy_that_strict_puts_there() {
        use Fate::{MutualTls, Plaintext};
        let mut world = World::shop();
        world.set_policy("catalog", "off", Mode::Disable, None);
        assert_eq!(rows(&world, &["catalog"]), [row(2, Plaintext, MutualTls)]);
    }

    #[test]
    fn policies_for_workloads_and_ports_stay_untouched() {
        use Fate::Plaintext;
        let mut world = World::shop();
        world.set_workload_policy("catalog", "default", 8080, Mode::Disable);
        assert_eq!(rows(&world, &["catalog"]), [row(2, Plaintext, Plaintext)]);
    }

    #[test]
    fn of_two_policies_for_the_whole_namespace_the_one_in_force_becomes_strict() {
        use Fate::{Fails, Plaintext};
        let mut world = World::shop();
        world.rule("front", CATALOG, TlsMode::Disable);
        world.set_policy("catalog", "a", Mode::Permissive, None);
        world.set_policy("catalog", "b", Mode::Permissive, None);
        assert_eq!(rows(&world, &["catalog"]), [row(2, Plaintext, Fails)]);
    }

    #[test]
    fn what_each_of_two_roots_would_tell_its_clients_is_a_row_of_its_own() {
        use crate::client_tls::Rules;
        use Fate::{Fails, MutualTls, Plaintext};
        let mut world = World::shop();
        world.rule("usergroup-2", CATALOG, TlsMode::Disable);
        let rule = world.snapshot.rules.of(&"usergroup-2".into())[0].clone();
        let roots = ["istio-system", "usergroup-2"].map(Namespace::new);
        world.snapshot.rules = Rules::new(roots, [rule]);
        let both = [row(2, MutualTls, MutualTls), row(2, Plaintext, Fails)];
        assert_eq!(rows(&world, &["catalog"]), both);
    }

    #[test]
    fn a_subset_that_is_sent_something_else_is_named() {
        use crate::client_tls::{Rules, Subset, TrafficPolicy};
        let mut world = World::shop();
        world.rule("front", CATALOG, TlsMode::IstioMutual);
        let mut rule = world.snapshot.rules.of(&"front".into())[0].clone();
        let off = TrafficPolicy { tls: Some(TlsMode::Disable), ..TrafficPolicy::default() };
        rule.subsets = vec![Subset { name: "v2".into(), policy: Some(off) }];
        world.snapshot.rules = Rules::new(Some("istio-system".into()), [rule]);
        let check = TlsCheck::new(&world.snapshot, &BTreeSet::new());
        let mut rows = check.rows(
            |client| client.namespace.as_str() == "front",
            |host, _| host.as_str() == CATALOG,
        );
        assert_eq!(rows.next().unwrap().subset, Some("v2"));
    }
}
