//! Whoever reads metrics: scrapers that are sent to an application, and we ourselves at the source.

use crate::{LONG, held_by, judged, shop};
use meshrollout_core::exposure::{Caller, Dialled, Entrance, Inbound};
use meshrollout_core::finding::{Code, Level, Subject};
use meshrollout_core::ident::{Labels, Namespace, Operator, Port, Requirement, Selector};
use meshrollout_core::mode::Mode;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::scrape::{Monitor, Scraped};
use meshrollout_core::testing::World;
use meshrollout_core::workload::{Proxy, Service};
use std::sync::Arc;

/// The operator stands in a namespace of its own.
#[test]
fn a_metrics_source_in_scope_is_an_obstacle_unless_the_operator_has_a_sidecar() {
    let asked = |change: &dyn Fn(&mut World)| {
        shop(|world| {
            world.telemetry.asked_at = Some(Entrance {
                caller: Caller::Ourselves,
                declared_by: Subject::cluster("metrics source", "main"),
                detail: String::new(),
                namespace: "catalog".into(),
                service: "catalog".into(),
                port: Dialled::Number(Port(80)),
            });
            change(world);
        })
    };
    let install = |proxies: &[Proxy]| {
        let proxies = proxies.to_vec();
        move |world: &mut World| {
            let mut facts = world.snapshot.namespaces[&Namespace::from("front")].as_ref().clone();
            facts.name = "meshrollout-system".into();
            facts.services.clear();
            let workload = facts.workloads.values_mut().next().unwrap();
            let labels = [("app.kubernetes.io/name", "meshrollout")].into_iter().collect();
            let labels: Arc<Labels> = Arc::new(labels);
            for (pod, proxy) in workload.pods.iter_mut().zip(&proxies) {
                (pod.labels, pod.proxy) = (labels.clone(), proxy.clone());
            }
            world.snapshot.namespaces.insert(facts.name.clone(), Arc::new(facts));
        }
    };
    let code = Code::ScrapeBreaksUnderStrict;
    let sidecar = Proxy::Sidecar { revision: Some("default".into()), announces_tls: true };
    held_by(asked(&|_| ()), code);
    held_by(asked(&install(&[sidecar.clone(), Proxy::None])), code);
    held_by(asked(&install(&[])), code);
    let goes_through = |change: &dyn Fn(&mut World)| {
        let mut world = asked(change);
        world.visits(LONG);
        assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    };
    let whole = install(&[sidecar.clone(), sidecar]);
    goes_through(&whole);
    // A sidecar of ours is of no use where it does not know whom we call, or what it sends is not
    // mutual TLS.
    let but = |change: &dyn Fn(&mut World)| {
        held_by(
            asked(&|world| {
                whole(world);
                change(world);
            }),
            code,
        );
    };
    but(&|world| world.edit_pods("meshrollout-system", |pod| pod.proxy = Proxy::Ambient));
    but(&|world| {
        world.edit_pods("meshrollout-system", |pod| {
            pod.inbound = Arc::new(Inbound { sends_past: true, ..Inbound::default() });
        });
    });
    but(&|world| {
        world.edit("catalog", |facts| facts.services[0].headless = true);
        world.telemetry.asked_at.as_mut().unwrap().port = Dialled::Number(Port(8080));
    });
    // One endpoint without a sidecar: to all of them goes plaintext.
    but(&|world| {
        world.edit("catalog", |facts| {
            facts.services[0].headless = true;
            facts.workloads.values_mut().next().unwrap().pods[1].proxy = Proxy::None;
        });
    });
    but(&|world| {
        world.edit("catalog", |facts| {
            let alias = Service {
                name: "source".into(),
                host: "source.catalog.svc.cluster.local".into(),
                external: Some(facts.services[0].host.clone()),
                ..facts.services[0].clone()
            };
            facts.services.push(alias);
        });
        world.telemetry.asked_at.as_mut().unwrap().service = "source".into();
    });
    goes_through(&|world| {
        world.set_workload_policy("catalog", "port", 8080, Mode::Permissive);
    });
    goes_through(&|world| world.telemetry.asked_at.as_mut().unwrap().namespace = "ops".into());
}

/// A Prometheus operator's scraper dials pods, whatever it is in itself.
#[test]
fn a_scraper_that_is_sent_to_the_application_is_an_obstacle_where_nobody_listened() {
    let monitored = |of_pods: bool, namespace: &str, labels: &[(&str, &str)], port: Scraped| {
        let mut world = shop(|world| {
            let requirement = |(key, value): &(&str, &str)| Requirement {
                key: (*key).into(),
                operator: Operator::In(vec![(*value).into()]),
            };
            let monitor = Monitor {
                declared_by: Subject::new("ServiceMonitor", &"ops".into(), "web"),
                namespaces: Some([namespace.into()].into()),
                selector: Selector::new(labels.iter().map(requirement).collect()),
                ports: vec![port],
                of_pods,
            };
            world.snapshot.monitors = Reading::Known(Arc::new(vec![monitor]));
            world.edit("catalog", |facts| {
                facts.services[0].labels = Labels::default().with("scraped", "yes");
                facts.services[0].ports[0].name = "web".into();
            });
            world.edit_pods("catalog", |pod| {
                let named = [("web".to_owned(), Port(8080))].into();
                pod.inbound = Arc::new(Inbound { named, ..Inbound::default() });
            });
        });
        let level = |world: &World| {
            let evaluation = judged(world);
            let all = evaluation.findings();
            all.into_iter().find(|one| one.code == Code::ScrapedAppPort).map(|one| one.level)
        };
        let heard = level(&world);
        world.telemetry.callers = Reading::Unknown(Cause::NotRead("callers".into()));
        (heard, level(&world))
    };
    let web = || Scraped::OfService("web".into());
    let found = (Some(Level::Warn), Some(Level::Block));
    assert_eq!(monitored(false, "catalog", &[("scraped", "yes")], web()), found);
    assert_eq!(monitored(false, "catalog", &[], Scraped::Container(Port(8080))), found);
    let named = |name: &str| Scraped::ContainerNamed(name.into());
    assert_eq!(monitored(true, "catalog", &[("app", "catalog")], named("web")), found);
    assert_eq!(monitored(false, "catalog", &[], named("web")), found);
    for nothing in [
        monitored(true, "catalog", &[], named("http-envoy-prom")),
        monitored(false, "front", &[("scraped", "yes")], web()),
        monitored(false, "catalog", &[("scraped", "no")], web()),
        monitored(false, "catalog", &[], Scraped::OfService("other".into())),
        monitored(true, "catalog", &[("app", "other")], named("web")),
        // The sidecar's own metrics are not captured.
        monitored(true, "catalog", &[], Scraped::Container(Port(15020))),
    ] {
        assert_eq!(nothing, (None, None));
    }
    let unread = Cause::NotRead("monitors".into());
    held_by(shop(|w| w.snapshot.monitors = Reading::Unknown(unread)), Code::CallersUnknown);
}
