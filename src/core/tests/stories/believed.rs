//! Who believes whom, who knows whom, and what the switch does to the sidecars themselves.

use super::{LONG, held_by, judged, shop};
use meshrollout_core::client_tls::TlsMode;
use meshrollout_core::egress::{Import, Scope, Scopes};
use meshrollout_core::exposure::{Inbound, PassedBy};
use meshrollout_core::finding::{Code, Finding, Level};
use meshrollout_core::gate::Verdict;
use meshrollout_core::ident::{Labels, Namespace};
use meshrollout_core::mode::Mode;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::snapshot::InboundFilter;
use meshrollout_core::testing::{World, at, seconds};
use meshrollout_core::traffic::{Name, Telemetry};
use meshrollout_core::workload::{Identity, Machine, Proxy};
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
    let bare = shop(|world| {
        world.plaintext(Some(("front", "front")), "catalog");
        world.edit_pods("front", |pod| pod.proxy = Proxy::None);
    });
    assert!(said(&bare, Code::PlaintextSeen).is_some());
}

#[test]
fn a_sidecar_that_is_passed_by_protects_nobody() {
    for why in [PassedBy::Mode, PassedBy::Uninitialised] {
        let passed = shop(|world| {
            world.edit_pods("catalog", |pod| {
                pod.inbound = Arc::new(Inbound { passed_by: Some(why), ..Inbound::default() });
            });
        });
        let found = said(&passed, Code::RedirectionMissing).expect("said");
        assert!(found.message.contains(&why.to_string()), "{}", found.message);
        held_by(passed, Code::RedirectionMissing);
    }
}

#[test]
fn whoever_trusts_no_root_of_ours_cannot_call_us() {
    let roots = |own: &[&str], others: &[&str]| {
        let set = |all: &[&str]| Some(all.iter().map(ToString::to_string).collect());
        shop(|world| {
            world.edit("catalog", |facts| facts.roots = set(own));
            world.edit("front", |facts| facts.roots = set(others));
        })
    };
    held_by(roots(&["old"], &["new"]), Code::RootMismatch);
    for (own, others) in [(&["old"][..], &["old"][..]), (&["old", "new"], &["new"])] {
        assert!(said(&roots(own, others), Code::RootMismatch).is_none(), "{own:?} {others:?}");
    }
    let mut outside = roots(&["old"], &["new"]);
    outside.edit_pods("front", |pod| pod.proxy = Proxy::None);
    assert!(said(&outside, Code::RootMismatch).is_none(), "nobody there speaks mutual TLS");
    // What is not known is no contradiction: istiod may not have written it yet.
    let mut unwritten = roots(&["old"], &["new"]);
    unwritten.edit("front", |facts| facts.roots = None);
    assert!(said(&unwritten, Code::RootMismatch).is_none());
}

#[test]
fn a_proxy_of_another_trust_domain_is_believed_where_it_is_an_alias() {
    let of = |domain: Option<&str>, aliases: &[&str]| {
        shop(|world| {
            let identity =
                Identity { account: "catalog".into(), trust_domain: domain.map(str::to_owned) };
            let identity = Arc::new(identity);
            world.edit_pods("catalog", |pod| pod.identity = identity.clone());
            if let Reading::Known(mesh) = &mut world.snapshot.mesh {
                mesh.trust_domain_aliases = aliases.iter().map(ToString::to_string).collect();
            }
        })
    };
    held_by(of(Some("old.example"), &[]), Code::TrustDomainMismatch);
    for clean in [of(Some("old.example"), &["old.example"]), of(Some("cluster.local"), &[])] {
        assert!(said(&clean, Code::TrustDomainMismatch).is_none());
    }
    assert!(said(&of(None, &[]), Code::TrustDomainMismatch).is_none());
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

/// A Sidecar in front that imports only these.
fn narrowed(world: &mut World, imports: &[(&str, &str)], sends_to_known_only: bool) {
    let imports = imports.iter().map(|(namespace, host)| Import {
        namespace: Some(Namespace::from(*namespace)),
        host: (*host).into(),
    });
    let scope = Scope {
        namespace: "front".into(),
        name: "default".into(),
        created: None,
        selector: Labels::default(),
        imports: Some(imports.collect()),
        sends_to_known_only,
    };
    world.snapshot.egress = Scopes::new(Some("istio-system".into()), [scope]);
}

#[test]
fn a_sidecar_that_hides_a_service_is_told_where_nobody_listened() {
    let code = Code::EgressScopeHidesHost;
    let hidden = |imports: &[(&str, &str)], known_only: bool| {
        shop(|world| {
            narrowed(world, imports, known_only);
            unheard(world);
        })
    };
    let found = said(&hidden(&[("front", "*")], false), code).expect("said");
    assert_eq!(found.level, Level::Warn);
    assert!(found.evidence.iter().any(|fact| fact.contains("front/default")), "{found:?}");
    assert!(said(&hidden(&[("catalog", "*")], false), code).is_none());
    assert!(said(&hidden(&[("front", "*")], true), code).is_none(), "it is not sent at all");
    let heard = shop(|world| narrowed(world, &[("front", "*")], false));
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
        world.telemetry.clusters = Reading::Known(["far".to_owned()].into());
    });
    let found = said(&elsewhere, Code::OtherClusterClients).expect("said");
    assert_eq!(found.evidence, ["calls came from cluster far"]);
    held_by(elsewhere, Code::OtherClusterClients);
}
