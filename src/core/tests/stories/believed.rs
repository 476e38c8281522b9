//! Who believes whom, who knows whom, and what the switch does to the sidecars themselves.

use super::{LONG, held_by, judged, shop};
use meshrollout_core::client_tls::TlsMode;
use meshrollout_core::egress::{Import, Scope, Scopes, Whose};
use meshrollout_core::exposure::{Inbound, PassedBy};
use meshrollout_core::finding::{Code, Finding, Level};
use meshrollout_core::gate::Verdict;
use meshrollout_core::ident::{Labels, Namespace, Port};
use meshrollout_core::mode::Mode;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::snapshot::InboundFilter;
use meshrollout_core::testing::{World, at, seconds};
use meshrollout_core::traffic::{Name, Telemetry};
use meshrollout_core::workload::{Identity, Machine, Proxy, ServicePort};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is said of `catalog` under this code.
fn said(world: &World, code: Code) -> Option<Finding> {
    judged(world).findings().into_iter().find(|found| found.code == code).cloned()
}

/// It is named and stops nobody.
#[track_caller]
fn warned_of(mut world: World, code: Code, level: Level) {
    assert_eq!(said(&world, code).map(|found| found.level), Some(level), "{code}");
    world.visits(LONG);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict), "held by {code}");
}

/// Nobody listens: no metrics source is asked.
fn unheard(world: &mut World) {
    let cause = Cause::NotRead("a metrics source".into());
    world.telemetry = Telemetry::unknown(at(0), seconds(3600), seconds(15), &cause);
}

#[test]
fn plaintext_of_a_client_with_a_sidecar_is_its_rules_doing_or_goes_past_the_service() {
    let past = || shop(|world| world.plaintext(Some(("front", "front")), "catalog"));
    held_by(past(), Code::PodIpTraffic);
    assert!(said(&past(), Code::PlaintextSeen).is_none());
    let told = shop(|world| {
        world.plaintext(Some(("front", "front")), "catalog");
        world.rule("front", "catalog.catalog.svc.cluster.local", TlsMode::Disable);
    });
    let found = said(&told, Code::PlaintextSeen).expect("said");
    assert!(found.message.contains("told to by DestinationRule front/rule"), "{}", found.message);
    assert!(said(&told, Code::PodIpTraffic).is_none());
    // A rule for somebody else is no reason.
    let other = shop(|world| {
        world.plaintext(Some(("front", "front")), "catalog");
        world.rule("front", "orders.orders.svc.cluster.local", TlsMode::Disable);
    });
    assert!(said(&other, Code::PodIpTraffic).is_some());
    // Nor is one for another Service beside it.
    let beside = shop(|world| {
        world.plaintext(Some(("front", "front")), "catalog");
        world.edit("catalog", |facts| {
            let mut legacy = facts.services[0].clone();
            legacy.name = "legacy".into();
            legacy.host = "legacy.catalog.svc.cluster.local".into();
            legacy.selector = [("app", "legacy")].into_iter().collect();
            facts.services.push(legacy);
        });
        world.rule("front", "legacy.catalog.svc.cluster.local", TlsMode::Disable);
    });
    assert!(said(&beside, Code::PodIpTraffic).is_some());
    let as_proxy = |proxy: Proxy| {
        shop(|world| {
            world.plaintext(Some(("front", "front")), "catalog");
            world.edit_pods("front", |pod| pod.proxy = proxy.clone());
        })
    };
    assert!(said(&as_proxy(Proxy::None), Code::PlaintextSeen).is_some());
    assert!(said(&as_proxy(Proxy::Gateway), Code::PodIpTraffic).is_some());
}

#[test]
fn a_sidecar_that_is_passed_by_protects_nobody() {
    let passed = |why| {
        shop(|world| {
            world.edit_pods("catalog", |pod| {
                pod.inbound = Arc::new(Inbound { passed_by: Some(why), ..Inbound::default() });
            });
        })
    };
    for (why, word) in [(PassedBy::Mode, "NONE"), (PassedBy::Uninitialised, "CNI")] {
        let found = said(&passed(why), Code::RedirectionMissing).expect("said");
        assert!(found.message.contains(word), "{}", found.message);
        assert_eq!(found.level, Level::Block);
        held_by(passed(why), Code::RedirectionMissing);
    }
    // With listeners of its own it may end mutual TLS all the same.
    let mut listening = passed(PassedBy::Mode);
    let own = Scope { namespace: "catalog".into(), imports: None, listens: true, ..narrow(&[]) };
    listening.snapshot.egress = Scopes::new(None, [own.clone()]);
    let found = said(&listening, Code::RedirectionMissing).expect("said");
    assert_eq!(found.level, Level::Hold);
    assert!(found.message.contains("Sidecar catalog/default"), "{}", found.message);
    // But not if only another control plane's clients read that.
    let canary = Scope { revision: Some("canary".into()), ..own };
    listening.snapshot.egress = Scopes::new(None, [canary]);
    let found = said(&listening, Code::RedirectionMissing).expect("said");
    assert_eq!(found.level, Level::Block);
}

#[test]
fn whoever_trusts_no_root_of_the_control_planes_cannot_be_called() {
    let roots = |home: Option<&[&str]>, own: Option<&[&str]>| {
        let set = |all: &[&str]| all.iter().map(ToString::to_string).collect();
        shop(|world| {
            let mut istiods = world.snapshot.namespaces[&Namespace::from("front")].as_ref().clone();
            istiods.name = "istio-system".into();
            istiods.workloads = BTreeMap::new();
            istiods.roots = home.map(set);
            world.snapshot.namespaces.insert("istio-system".into(), Arc::new(istiods));
            world.edit("catalog", |facts| facts.roots = own.map(set));
        })
    };
    held_by(roots(Some(&["old"]), Some(&["new"])), Code::RootMismatch);
    for (home, own) in [
        (Some(&["old"][..]), Some(&["old"][..])),
        (Some(&["old", "new"]), Some(&["new"])),
        // What is not known is no contradiction: istiod may not have written it yet.
        (None, Some(&["new"])),
        (Some(&["old"]), None),
    ] {
        assert!(said(&roots(home, own), Code::RootMismatch).is_none(), "{home:?} {own:?}");
    }
    // Of two control planes with CAs of their own it is enough to be the second one's; that they
    // cannot call each other is said. One of which nothing is known yet proves nothing.
    let two = |second: Option<&str>| {
        let mut world = roots(Some(&["old"]), Some(&["new"]));
        let policies = world.snapshot.policies.clone();
        world.snapshot.policies = policies.with_further_roots(["istio-canary".into()]);
        let namespaces = &mut world.snapshot.namespaces;
        let mut istiods = namespaces[&Namespace::from("istio-system")].as_ref().clone();
        istiods.name = "istio-canary".into();
        istiods.roots = second.map(|root| [root.to_owned()].into());
        namespaces.insert("istio-canary".into(), Arc::new(istiods));
        said(&world, Code::RootMismatch).expect("said")
    };
    for (second, level, names) in [
        (Some("new"), Level::Warn, "certificates of istio-system:"),
        (Some("other"), Level::Block, "certificates of istio-system, istio-canary:"),
        (None, Level::Block, "certificates of istio-system:"),
    ] {
        let found = two(second);
        assert_eq!((found.level, found.message.contains(names)), (level, true), "{found:?}");
    }
    // Nobody stops another's namespace by what he writes into his own.
    let mut tenant = roots(Some(&["old"]), Some(&["old"]));
    tenant.edit("front", |facts| facts.roots = Some(["mine".to_owned()].into()));
    assert!(said(&tenant, Code::RootMismatch).is_none());
}

#[test]
fn a_pod_made_for_another_trust_domain_is_told_where_the_mesh_knows_it_no_more() {
    let of = |domain: Option<&str>, known: Option<&[&str]>| {
        shop(|world| {
            let identity =
                Identity { account: "catalog".into(), trust_domain: domain.map(str::to_owned) };
            let identity = Arc::new(identity);
            world.edit_pods("catalog", |pod| pod.identity = identity.clone());
            if let Reading::Known(mesh) = &mut world.snapshot.mesh {
                let set = |all: &[&str]| all.iter().map(ToString::to_string).collect();
                mesh.trust_domains = known.map(set);
            }
        })
    };
    let code = Code::TrustDomainMismatch;
    warned_of(of(Some("old"), Some(&["new"])), code, Level::Warn);
    for clean in [
        of(Some("old"), Some(&["new", "old"])),
        of(None, Some(&["new"])),
        // Nobody said what the mesh's is.
        of(Some("old"), None),
    ] {
        assert!(said(&clean, code).is_none());
    }
}

#[test]
fn two_workloads_of_one_default_identity_are_worth_knowing() {
    let alike = |account: &'static str| {
        shop(|world| {
            let of = Identity { account: account.into(), trust_domain: None };
            let of = Arc::new(of);
            world.edit_pods("catalog", |pod| pod.identity = of.clone());
            world.edit("catalog", |facts| {
                let mut second = facts.workloads.values().next().unwrap().clone();
                second.id.kind = "StatefulSet".into();
                facts.workloads.insert(second.id.clone(), second);
            });
        })
    };
    let found = said(&alike("default"), Code::SharedIdentity).expect("said");
    assert_eq!(found.level, Level::Inform);
    assert!(found.message.contains("spiffe://cluster.local/ns/catalog/sa/default"));
    assert!(said(&alike("catalog"), Code::SharedIdentity).is_none());
    let only = shop(|world| {
        world.edit_pods("catalog", |pod| {
            pod.identity = Arc::new(Identity { account: "default".into(), trust_domain: None });
        });
    });
    assert!(said(&only, Code::SharedIdentity).is_none());
}

#[test]
fn a_machine_that_takes_no_mutual_tls_is_sent_plaintext() {
    let machine = |takes_mutual_tls| {
        shop(|world| {
            let machine = Machine { name: "vm".into(), takes_mutual_tls };
            world.edit("catalog", |facts| facts.machines.push(machine));
        })
    };
    held_by(machine(false), Code::WorkloadEntryNoIdentity);
    assert!(said(&machine(true), Code::WorkloadEntryNoIdentity).is_none());
    held_by(machine(true), Code::DataplaneNotCovered);
}

/// A Sidecar in front that imports only what is in these namespaces.
fn narrow(namespaces: &[&str]) -> Scope {
    let import = |name: &&str| Import {
        of: Whose::Named(Namespace::from(*name)),
        host: "*".into(),
        port: None,
    };
    Scope {
        namespace: "front".into(),
        name: "default".into(),
        created: None,
        selector: Labels::default(),
        imports: Some(namespaces.iter().map(import).collect()),
        sends_to_known_only: None,
        revision: None,
        listens: false,
    }
}

#[test]
fn a_sidecar_that_hides_a_service_is_told_where_nobody_listened() {
    let code = Code::EgressScopeHidesHost;
    let scoped = |scope: Scope| {
        shop(|world| {
            world.snapshot.egress = Scopes::new(Some("istio-system".into()), [scope]);
            unheard(world);
        })
    };
    let found = said(&scoped(narrow(&["front"])), code).expect("said");
    assert_eq!(found.level, Level::Warn);
    assert!(found.evidence.iter().any(|fact| fact.contains("front/default")), "{found:?}");
    assert!(said(&scoped(narrow(&["catalog"])), code).is_none());
    // It is not sent at all: by its own word, or by the mesh's.
    let known_only = |is| Scope { sends_to_known_only: is, ..narrow(&["front"]) };
    assert!(said(&scoped(known_only(Some(true))), code).is_none());
    let by_default = |is| {
        let mut world = scoped(known_only(is));
        if let Reading::Known(mesh) = &mut world.snapshot.mesh {
            mesh.sends_to_known_only = true;
        }
        world
    };
    assert!(said(&by_default(None), code).is_none());
    assert!(said(&by_default(Some(false)), code).is_some());
    // The root namespace's `./*` is every client's own.
    let own = Import { of: Whose::Clients, host: "*".into(), port: None };
    let roots = Scope { namespace: "istio-system".into(), imports: Some(vec![own]), ..narrow(&[]) };
    let found = said(&scoped(roots), code).expect("said");
    let clients = "by Sidecar istio-system/default for clients in front, istio-system/default for clients in orders";
    assert_eq!(found.evidence[1], clients);
    // Of a Service only one port is imported.
    let import = |port| Import { of: Whose::Any, host: "*".into(), port: Some(Port(port)) };
    let of_port = |port| Scope { imports: Some(vec![import(port)]), ..narrow(&[]) };
    assert!(said(&scoped(of_port(80)), code).is_none());
    assert!(said(&scoped(of_port(9090)), code).is_some());
    let mut partly = scoped(of_port(80));
    partly.edit("catalog", |facts| {
        let second = ServicePort { port: Port(9090), ..facts.services[0].ports[0].clone() };
        facts.services[0].ports.push(second);
    });
    assert!(said(&partly, code).is_some());
    let heard = shop(|world| {
        world.snapshot.egress = Scopes::new(None, [narrow(&["front"])]);
    });
    assert!(said(&heard, code).is_none(), "who sends plaintext is named by what was measured");
    assert_eq!(judged(&heard).verdict(), Verdict::Pass);
}

#[test]
fn ambient_clients_are_told_of_where_nobody_listened_and_no_hbone_is_offered() {
    let code = Code::AmbientClientNoHbone;
    let world = |listened: bool, tunnel: Option<&'static str>, client: Proxy| {
        shop(|world| {
            if !listened {
                unheard(world);
            }
            world.edit_pods("front", |pod| pod.proxy = client.clone());
            if let Some(tunnel) = tunnel {
                world.edit_pods("catalog", |pod| {
                    let labels = pod.labels.as_ref().clone();
                    let label = "networking.istio.io/tunnel";
                    pod.labels = Arc::new(labels.with(label, tunnel));
                });
            }
        })
    };
    let found = said(&world(false, None, Proxy::Ambient), code).expect("said");
    assert_eq!(found.level, Level::Warn);
    assert!(said(&world(false, Some("http"), Proxy::Ambient), code).is_none());
    assert!(said(&world(false, None, Proxy::Gateway), code).is_none());
    assert!(said(&world(true, None, Proxy::Ambient), code).is_none());
}

#[test]
fn connections_that_stay_open_are_told_before_the_switch_drains_them() {
    let open = |namespace: &str, count: f64| {
        shop(|world| {
            let to = Name { namespace: namespace.into(), workload: "catalog".into() };
            world.telemetry.open = Reading::Known(BTreeMap::from([(to, count)]));
        })
    };
    let code = Code::LongLivedConnections;
    let found = said(&open("catalog", 12.0), code).expect("said");
    assert_eq!(found.value.as_deref(), Some("12"));
    assert!(said(&open("catalog", 0.0), code).is_none());
    assert!(said(&open("orders", 12.0), code).is_none());
    warned_of(open("catalog", 12.0), code, Level::Warn);
    let excepted = shop(|world| {
        *world = open("catalog", 12.0);
        world.set_workload_policy("catalog", "kept", 8080, Mode::Permissive);
    });
    assert!(said(&excepted, code).is_some(), "its other ports are switched");
    let unknown = shop(|world| {
        world.telemetry.open = Reading::Unknown(Cause::PartialAnswer("a store is down".into()));
    });
    held_by(unknown, Code::PartialAnswer);
}

#[test]
fn a_filter_that_looks_for_a_shape_of_permissive_is_told_where_it_applies() {
    let code = Code::InboundEnvoyFilter;
    let filter = |namespace: &str, app: Option<&'static str>| {
        shop(|world| {
            world.snapshot.inbound_filters.push(InboundFilter {
                namespace: namespace.into(),
                name: "patch".into(),
                selector: app.map(|app| [("app", app)].into_iter().collect()),
                what: "FILTER_CHAIN".into(),
            });
        })
    };
    for applies in [("catalog", None), ("istio-system", None), ("catalog", Some("catalog"))] {
        warned_of(filter(applies.0, applies.1), code, Level::Warn);
    }
    for elsewhere in [("orders", None), ("catalog", Some("other"))] {
        assert!(said(&filter(elsewhere.0, elsewhere.1), code).is_none(), "{elsewhere:?}");
    }
}

#[test]
fn calls_from_another_cluster_say_that_the_mesh_is_larger() {
    let elsewhere = shop(|world| {
        let far = [("catalog".into(), ["far".to_owned()].into())];
        world.telemetry.clusters = Reading::Known(far.into());
    });
    let found = said(&elsewhere, Code::OtherClusterClients).expect("said");
    assert_eq!(found.evidence, ["calls came from cluster far"]);
    let mut other = elsewhere.clone();
    if let Reading::Known(clusters) = &mut other.telemetry.clusters {
        let far = clusters.remove(&Namespace::from("catalog")).unwrap();
        clusters.insert("orders".into(), far);
    }
    assert!(said(&other, Code::OtherClusterClients).is_none());
    held_by(elsewhere, Code::OtherClusterClients);
}
