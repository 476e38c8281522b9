use super::Fate::{Fails, MutualTls, Plaintext, Unknown};
use super::*;
use crate::client_tls::TlsMode;
use crate::testing::World;
use std::sync::Arc;

const HOST: &str = "catalog.catalog.svc.cluster.local";

/// What comes of the call of `front` to the first pod of `catalog`.
fn with_call<T>(world: &World, look: impl FnOnce(&Call<'_>, &Pod) -> T) -> T {
    let snapshot = &world.snapshot;
    let of = |name: &str| snapshot.namespaces[&Namespace::from(name)].as_ref();
    let (front, catalog) = (of("front"), of("catalog"));
    let service = &catalog.services[0];
    let call = Call {
        snapshot,
        policies: &snapshot.policies,
        client: &front.name,
        pod: &front.workloads.values().next().unwrap().pods[0],
        facts: catalog,
        service,
        port: &service.ports[0],
    };
    look(&call, &catalog.workloads.values().next().unwrap().pods[0])
}

/// How it fares, and who decided what it sends.
fn call(world: &World) -> (Fate, String) {
    with_call(world, |call, endpoint| {
        let sent = call.sent(&call.rules()[0], endpoint);
        (Fate::of(&sent.bytes, &call.accepts(endpoint)), sent.by.to_string())
    })
}

/// At a server that is PERMISSIVE, STRICT, DISABLE, and without a proxy.
fn at_each_server(prepare: impl Fn(&mut World)) -> [Fate; 4] {
    [Some(Mode::Permissive), Some(Mode::Strict), Some(Mode::Disable), None].map(|mode| {
        let mut world = World::shop();
        match mode {
            Some(mode) => world.set_policy("catalog", "wide", mode, None),
            None => world.edit_pods("catalog", |pod| pod.proxy = Proxy::None),
        }
        prepare(&mut world);
        call(&world).0
    })
}

/// The matrix of `istio-semantics.md` B5, row by row.
#[test]
fn the_matrix_of_clients_and_servers_holds() {
    let plain = [Plaintext, Fails, Plaintext, Plaintext];
    let foreign = [Unknown, Fails, Unknown, Unknown];
    let rule = |tls: TlsMode| move |world: &mut World| world.rule("front", HOST, tls.clone());
    let is = |proxy: Proxy| {
        move |world: &mut World| world.edit_pods("front", |pod| pod.proxy = proxy.clone())
    };
    let auto = [MutualTls, MutualTls, Plaintext, Plaintext];
    assert_eq!(at_each_server(|_| ()), auto);
    assert_eq!(at_each_server(is(Proxy::Gateway)), auto);
    assert_eq!(at_each_server(is(Proxy::None)), plain);
    assert_eq!(at_each_server(is(Proxy::Ambient)), plain);
    assert_eq!(at_each_server(rule(TlsMode::Disable)), plain);
    assert_eq!(at_each_server(rule(TlsMode::IstioMutual)), [MutualTls, MutualTls, Fails, Fails]);
    assert_eq!(at_each_server(rule(TlsMode::Simple)), foreign);
    assert_eq!(at_each_server(rule(TlsMode::Mutual)), foreign);
    assert_eq!(at_each_server(rule(TlsMode::Unknown("X".into()))), [Unknown; 4]);
    assert_eq!(at_each_server(auto_off), plain);
    assert_eq!(at_each_server(headless_and_mixed), plain);
}

fn auto_off(world: &mut World) {
    let Reading::Known(mesh) = &mut world.snapshot.mesh else { unreachable!() };
    mesh.auto_mtls = false;
}

fn headless_and_mixed(world: &mut World) {
    world.edit("catalog", |facts| {
        facts.services[0].headless = true;
        facts.workloads.values_mut().next().unwrap().pods[1].proxy = Proxy::None;
    });
}

#[test]
fn a_port_that_is_not_captured_is_sent_mutual_tls_that_nobody_ends() {
    let mut world = World::shop();
    world.edit_pods("catalog", |pod| {
        let but = [crate::ident::Port(8080)].into();
        pod.inbound = Arc::new(crate::exposure::Inbound { but, ..Default::default() });
    });
    assert_eq!(call(&world), (Fails, "automatic mutual TLS".into()));
    world.rule("front", HOST, TlsMode::Disable);
    assert_eq!(call(&world).0, Plaintext);
}

#[test]
fn whoever_decides_is_named() {
    let mut world = World::shop();
    assert_eq!(call(&world), (MutualTls, "automatic mutual TLS".into()));
    headless_and_mixed(&mut world);
    assert_eq!(call(&world), (Plaintext, "an endpoint outside the mesh".into()));
    world.set_policy("catalog", "off", Mode::Disable, None);
    assert_eq!(call(&world), (Plaintext, "PeerAuthentication catalog/off".into()));
    world.rule("front", HOST, TlsMode::IstioMutual);
    assert_eq!(call(&world), (Fails, "DestinationRule front/rule".into()));
}

#[test]
fn disable_on_a_namespace_makes_clients_fail_at_its_strict_workloads() {
    let mut world = World::shop();
    world.set_policy("catalog", "off", Mode::Disable, None);
    world.set_workload_policy("catalog", "port", 8080, Mode::Strict);
    assert_eq!(call(&world), (Fails, "PeerAuthentication catalog/off".into()));
}

/// B2.5 and B2.6.
#[test]
fn clients_go_by_a_port_at_disable_but_not_behind_a_headless_service() {
    let mut world = World::shop();
    world.set_workload_policy("catalog", "port", 8080, Mode::Disable);
    assert_eq!(call(&world), (Plaintext, "PeerAuthentication catalog/port".into()));
    world.edit("catalog", |facts| facts.services[0].headless = true);
    assert_eq!(call(&world), (Fails, "automatic mutual TLS".into()));
    world.edit_pods("front", |pod| pod.proxy = Proxy::Gateway);
    assert_eq!(call(&world), (Plaintext, "PeerAuthentication catalog/port".into()));
}

#[test]
fn a_port_of_which_a_policy_speaks_has_to_be_known() {
    let mut world = World::shop();
    world.edit("catalog", |facts| facts.services[0].ports[0].target = None);
    assert_eq!(call(&world).0, MutualTls);
    world.set_workload_policy("catalog", "port", 8080, Mode::Disable);
    assert_eq!(call(&world).0, Unknown);
}

/// B1.
#[test]
fn the_label_counts_and_not_the_proxy() {
    let mut world = World::shop();
    world.edit_pods("catalog", |pod| {
        pod.proxy = Proxy::None;
        let own = [("app", "catalog"), ("security.istio.io/tlsMode", "istio")];
        pod.labels = Arc::new(own.into_iter().collect());
    });
    assert_eq!(call(&world).0, Fails);
    world.edit_pods("catalog", |pod| {
        pod.proxy = Proxy::Sidecar { revision: Some("default".into()), announces_tls: false };
        pod.labels = Arc::new([("app", "catalog")].into_iter().collect());
    });
    world.set_policy("catalog", "wide", Mode::Strict, None);
    assert_eq!(call(&world).0, Fails);
}

#[test]
fn ztunnel_goes_by_what_the_endpoint_offers_and_by_no_rule() {
    let ambient = |world: &mut World| world.edit_pods("front", |pod| pod.proxy = Proxy::Ambient);
    assert_eq!(at_each_server(ambient), [Plaintext, Fails, Plaintext, Plaintext]);
    let tunnel = |world: &mut World| {
        ambient(world);
        world.rule("front", HOST, TlsMode::Disable);
        world.edit_pods("catalog", |pod| {
            let labels = pod.labels.as_ref().clone();
            pod.labels = Arc::new(labels.with("networking.istio.io/tunnel", "h2,http"));
        });
    };
    let [permissive, strict, disable, _] = at_each_server(tunnel);
    assert_eq!([permissive, strict, disable], [MutualTls; 3]);
    let both = |world: &mut World| {
        ambient(world);
        world.edit_pods("catalog", |pod| pod.proxy = Proxy::Ambient);
    };
    assert_eq!(at_each_server(both), [MutualTls; 4]);
}

/// A9.
#[test]
fn ztunnel_denies_plaintext_where_strict_is_in_force_and_knows_no_disable() {
    let bare = |world: &mut World| {
        world.edit_pods("front", |pod| pod.proxy = Proxy::None);
        world.edit_pods("catalog", |pod| pod.proxy = Proxy::Ambient);
    };
    assert_eq!(at_each_server(bare), [Plaintext, Fails, Plaintext, Plaintext]);
    let mut off = World::shop();
    bare(&mut off);
    off.set_policy("catalog", "wide", Mode::Disable, None);
    let accepted = with_call(&off, |call, endpoint| match call.accepts(endpoint) {
        Accepts::Mode(effective) => Some(effective.mode),
        Accepts::NoProxy | Accepts::Unknown(_) => None,
    });
    assert_eq!(accepted, Some(Mode::Permissive));
    let ports = |world: &mut World| {
        bare(world);
        world.set_workload_policy("catalog", "port", 8080, Mode::Permissive);
    };
    assert_eq!(at_each_server(ports), [Unknown; 4]);
    // Whether a sidecar uses the tunnel no object tells.
    let sidecar = |world: &mut World| {
        world.edit_pods("catalog", |pod| pod.proxy = Proxy::Ambient);
    };
    assert_eq!(at_each_server(sidecar), [Unknown; 4]);
}

#[test]
fn what_a_sidecar_does_not_import_goes_out_as_it_is() {
    let bound = |known_only: Option<bool>, gateway: bool, revision: Option<&'static str>| {
        move |world: &mut World| {
            let scope = Scope {
                namespace: "front".into(),
                name: "narrow".into(),
                created: None,
                selector: Default::default(),
                imports: Some(vec![]),
                sends_to_known_only: known_only,
                revision: revision.map(str::to_owned),
                listens: false,
            };
            world.snapshot.egress = crate::egress::Scopes::new(None, [scope]);
            if gateway {
                world.edit_pods("front", |pod| pod.proxy = Proxy::Gateway);
            }
        }
    };
    let scoped = |known_only, gateway| bound(known_only, gateway, None);
    assert_eq!(at_each_server(scoped(None, false)), [Plaintext, Fails, Plaintext, Plaintext]);
    assert_eq!(at_each_server(scoped(Some(true), false)), [Unknown; 4]);
    // Gateways know everything.
    let [permissive, strict, ..] = at_each_server(scoped(None, true));
    assert_eq!([permissive, strict], [MutualTls; 2]);
    // Where it may be another control plane's, what lets plaintext out counts and what lets nothing
    // out does not.
    let canary = Some("canary");
    assert_eq!(at_each_server(bound(None, false, canary))[1], Fails);
    assert_eq!(at_each_server(bound(Some(true), false, canary))[1], MutualTls);
    let mut world = World::shop();
    scoped(None, false)(&mut world);
    assert_eq!(call(&world).1, "Sidecar front/narrow");
}
