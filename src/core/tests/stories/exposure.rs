//! Callers from outside the mesh that can never speak its mutual TLS, and what lets them in.

mod scraped;

use super::{LONG, held_by, judged, shop};
use meshrollout_core::exposure::{Caller, Check, Inbound, IngressController, Opener, Opening};
use meshrollout_core::finding::{Code, Level, Subject};
use meshrollout_core::gate::Evaluation;
use meshrollout_core::ident::{Host, Labels, Port, WorkloadRef};
use meshrollout_core::injection::Template;
use meshrollout_core::mode::Mode;
use meshrollout_core::reading::{Cause, Reading};
use meshrollout_core::scheduled::{Names, Ran, Scheduled};
use meshrollout_core::testing::{World, at, seconds};
use meshrollout_core::waiver::{Acknowledgement, Answer, Exception};
use meshrollout_core::workload::{NamespaceFacts, Phase, Pod, Proxy, Workload};
use std::sync::Arc;

#[test]
fn holds_while_somebody_outside_the_mesh_is_led_in_unless_that_very_port_is_excepted() {
    for (caller, code) in [
        (Caller::Admission, Code::WebhookBackend),
        (Caller::Aggregation, Code::ApiServiceBackend),
        (Caller::Conversion, Code::ConversionBackend),
        (Caller::Ingress(controller("k8s.io/ingress-nginx")), Code::IngressWithoutProxy),
    ] {
        let led = || shop(|world| world.entrance(caller.clone(), "catalog"));
        held_by(led(), code);
        let mut other = led();
        other.set_workload_policy("catalog", "other", 9090, Mode::Permissive);
        held_by(other, code);
        let mut excepted = led();
        excepted.set_workload_policy("catalog", "port", 8080, Mode::Permissive);
        excepted.visits(LONG);
        assert_eq!(excepted.mode("catalog"), Some(Mode::Strict), "{code}");
    }
}

#[test]
fn holds_while_it_is_not_known_who_is_led_in() {
    let unread = Cause::NotRead("APIServices".into());
    held_by(shop(|w| w.snapshot.entrances = Reading::Unknown(unread)), Code::CallersUnknown);
}

/// The controller of class `nginx`, whoever that is.
fn controller(name: &str) -> IngressController {
    IngressController { class: Some("nginx".into()), name: Some(name.into()), calls: None }
}

/// A shop with an Ingress of this controller, and `front` as the pods of this name.
fn routed(controller: IngressController, pods: &'static str) -> World {
    shop(|world| {
        world.entrance(Caller::Ingress(controller), "catalog");
        world.edit_pods("front", |pod| {
            pod.labels =
                Arc::new([("app.kubernetes.io/name", pods), ("app", pods)].into_iter().collect());
        });
    })
}

#[test]
fn an_ingress_is_no_obstacle_where_its_controller_has_a_sidecar_and_calls_the_service() {
    let nginx = || controller("k8s.io/ingress-nginx");
    let through = || IngressController { calls: Some("catalog.catalog".into()), ..nginx() };
    let mut world = routed(through(), "ingress-nginx");
    world.visits(LONG);
    assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    held_by(routed(nginx(), "ingress-nginx"), Code::IngressWithoutProxy);
    let elsewhere = IngressController { calls: Some("front.front".into()), ..nginx() };
    held_by(routed(elsewhere, "ingress-nginx"), Code::IngressWithoutProxy);
    let mut headless = routed(through(), "ingress-nginx");
    headless.edit("catalog", |facts| facts.services[0].headless = true);
    held_by(headless, Code::IngressWithoutProxy);
    let mut bare = routed(through(), "ingress-nginx");
    bare.edit_pods("front", |pod| pod.proxy = Proxy::None);
    held_by(bare, Code::IngressWithoutProxy);
    let mut ambient = routed(through(), "ingress-nginx");
    ambient.edit_pods("front", |pod| pod.proxy = Proxy::Ambient);
    held_by(ambient, Code::IngressWithoutProxy);
}

/// An application may be named as a class is, or as a part of its controller's name.
#[test]
fn no_other_application_speaks_for_an_ingress_controller() {
    for (of, pods) in [
        ("k8s.io/ingress-nginx", "nginx"),
        ("nginx.org/ingress-controller", "nginx"),
        ("example.com/ingress", "ingress"),
    ] {
        let through = IngressController { calls: Some("catalog.catalog".into()), ..controller(of) };
        held_by(routed(through, pods), Code::IngressWithoutProxy);
    }
    let nobody =
        IngressController { class: None, name: None, calls: Some("catalog.catalog".into()) };
    held_by(routed(nobody, "default"), Code::IngressWithoutProxy);
}

/// Whom it dials is not read, so it is asked of the traffic, where there was somebody to hear it.
#[test]
fn a_controller_with_a_sidecar_that_may_dial_pods_must_be_seen_to_call_the_service() {
    for (of, pods) in [
        ("haproxy.org/ingress-controller", "kubernetes-ingress"),
        ("ingress-controllers.konghq.com/kong", "kong"),
        ("nginx.org/ingress-controller", "nginx-ingress"),
        ("traefik.io/ingress-controller", "traefik"),
    ] {
        // The shop's only client is seen to call the catalog.
        let meshed = || routed(controller(of), pods);
        let mut seen = meshed();
        seen.visits(LONG);
        assert_eq!(seen.mode("catalog"), Some(Mode::Strict), "{of}");
        let mut unheard = meshed();
        unheard.telemetry.callers = Reading::Unknown(Cause::NotRead("callers".into()));
        held_by(unheard, Code::IngressWithoutProxy);
        let mut unseen = meshed();
        if let Reading::Known(edges) = &mut unseen.telemetry.edges {
            edges
                .iter_mut()
                .for_each(|edge| edge.service = "other.catalog.svc.cluster.local".into());
        }
        held_by(unseen, Code::IngressWithoutProxy);
        let mut bare = meshed();
        bare.edit_pods("front", |pod| pod.proxy = Proxy::None);
        held_by(bare, Code::IngressWithoutProxy);
    }
}

/// One of its pods without a sidecar is one that sends plaintext.
#[test]
fn every_pod_of_a_controller_must_have_a_sidecar() {
    let calls = Some("catalog.catalog".into());
    let nginx = IngressController { calls, ..controller("k8s.io/ingress-nginx") };
    let mut world = routed(nginx, "ingress-nginx");
    world.edit("front", |facts| {
        let workload = facts.workloads.values_mut().next().unwrap();
        let bare = Pod { proxy: Proxy::None, name: "bare".into(), ..workload.pods[0].clone() };
        workload.pods.push(bare);
    });
    held_by(world, Code::IngressWithoutProxy);
}

#[test]
fn holds_while_the_kubelet_calls_the_application_itself() {
    let opened = |by: Opener, inbound: Inbound| {
        shop(|world| {
            let opening = Opening { by, container: "app".into(), port: Port(8080) };
            let inbound = Inbound { openings: vec![opening], ..inbound.clone() };
            world.edit_pods("catalog", |pod| pod.inbound = Arc::new(inbound.clone()));
        })
    };
    let probe = Opener::Probe(Check::Liveness);
    held_by(opened(probe, Inbound::default()), Code::ProbeNotRewritten);
    held_by(opened(Opener::Hook, Inbound::default()), Code::LifecycleHookNotRewritten);
    held_by(opened(Opener::Scraper, Inbound::default()), Code::ScrapedAppPort);
    // What the sidecar does not capture it does not refuse; who only connects is answered.
    let uncaptured = Inbound { but: [Port(8080)].into(), ..Inbound::default() };
    for mut world in [
        opened(probe, uncaptured),
        opened(Opener::Connect(Check::Readiness), Inbound::default()),
        opened(Opener::HostPort(Port(80)), Inbound::default()),
    ] {
        world.visits(LONG);
        assert_eq!(world.mode("catalog"), Some(Mode::Strict));
    }
}

/// A declaration lets nobody in: the policy that it speaks of must be there.
#[test]
fn an_exception_without_its_policy_hides_no_plaintext() {
    for ports in [vec![], vec![8080]] {
        let world = || {
            shop(|world| {
                world.plaintext(Some(("legacy", "batch")), "catalog");
                world.plan.waivers.exceptions.push(Exception {
                    workload: WorkloadRef::new("catalog", "Deployment", "catalog"),
                    ports: ports.iter().copied().map(Port).collect(),
                    answer: Answer {
                        owner: "platform".into(),
                        reason: "legacy".into(),
                        expires: at(1_000_000),
                    },
                });
            })
        };
        held_by(world(), Code::PlaintextSeen);
        let mut excepted = world();
        excepted.set_workload_policy("catalog", "port", 8080, Mode::Permissive);
        // One port of the whole workload is not the workload.
        let expected = if ports.is_empty() { Code::PlaintextSeen } else { Code::PortUnknown };
        held_by(excepted.clone(), expected);
        let to = |port: u16| {
            let mut world = excepted.clone();
            if let Reading::Known(callers) = &mut world.telemetry.callers {
                callers[0].port = Some(Port(port));
            }
            world
        };
        if ports.is_empty() {
            continue;
        }
        // Where the series say to which port it came, that port alone is let in.
        held_by(to(9090), Code::PlaintextSeen);
        // A declaration without a policy lets nobody in, to a port of no Service neither.
        let mut both = to(9090);
        both.plan.waivers.exceptions[0].ports.insert(Port(9090));
        held_by(both.clone(), Code::PlaintextSeen);
        let found = judged(&to(9090)).obstacles().first().copied().cloned().expect("said");
        assert_eq!(found.subject.port, Some(Port(9090)));
        let mut let_in = to(8080);
        // Metrics name a namesake of another kind as they name the workload that is let in.
        let mut namesake = let_in.clone();
        namesake.edit("catalog", |facts| {
            let mut other = facts.workloads.values().next().unwrap().clone();
            other.id.kind = "StatefulSet".into();
            for pod in &mut other.pods {
                pod.name = format!("other-{}", pod.name);
                pod.labels = Arc::new(Labels::from_iter([("app", "other")]));
            }
            facts.workloads.insert(other.id.clone(), other);
        });
        held_by(namesake, Code::PlaintextSeen);
        let_in.visits(LONG);
        assert_eq!(let_in.mode("catalog"), Some(Mode::Strict));
    }
}

/// A webhook is called when the first of its pods is up again.
#[test]
fn pods_that_are_still_to_come_are_refused_as_well() {
    let admitting = |change: &dyn Fn(&mut Workload)| {
        let world = shop(|world| {
            world.entrance(Caller::Admission, "catalog");
            let edit =
                |facts: &mut NamespaceFacts| change(facts.workloads.values_mut().next().unwrap());
            world.edit("catalog", edit);
        });
        judged(&world).has(Code::WebhookBackend)
    };
    let each = |phase: Phase| {
        move |workload: &mut Workload| {
            workload.template = None;
            workload.pods.iter_mut().for_each(|pod| pod.phase = phase);
        }
    };
    assert!(admitting(&|_| ()));
    assert!(admitting(&each(Phase::Pending)));
    assert!(!admitting(&each(Phase::Completed)));
    let scaled_to = |labels: Labels| {
        move |workload: &mut Workload| {
            workload.pods.clear();
            workload.template = Some(Template { labels: labels.clone(), ..Template::default() });
        }
    };
    let own = || Labels::default().with("app", "catalog");
    assert!(admitting(&scaled_to(own())));
    assert!(!admitting(&scaled_to(own().with("sidecar.istio.io/inject", "false"))));
    assert!(!admitting(
        &|workload| *workload = Workload { pods: vec![], template: None, ..workload.clone() }
    ));
}

#[test]
fn holds_while_the_endpoints_of_a_service_that_is_called_are_not_known() {
    let unselected = |external: Option<Host>| {
        shop(|world| {
            world.entrance(Caller::Admission, "catalog");
            world.edit("catalog", |facts| {
                facts.services[0].selector = Labels::default();
                facts.services[0].external = external;
            });
        })
    };
    assert!(!judged(&unselected(Some(Host::new("example.com")))).has(Code::CallersUnknown));
    let world = unselected(None);
    let evaluation = judged(&world);
    let found = evaluation.obstacles().into_iter().find(|one| one.code == Code::CallersUnknown);
    assert_eq!(found.unwrap().subject, Subject::new("Service", &"catalog".into(), "catalog"));
    held_by(world, Code::CallersUnknown);
}

/// With the older policy gone the caller would be refused: both are said at once.
#[test]
fn a_policy_that_stands_before_ours_hides_no_caller() {
    let mut world = shop(|world| world.entrance(Caller::Admission, "catalog"));
    world.set_policy("catalog", "before", Mode::Permissive, None);
    let evaluation = judged(&world);
    assert!(evaluation.has(Code::PolicyShadowed) && evaluation.has(Code::WebhookBackend));
}

/// Work by a schedule that names `words`: service and port.
fn work(ran: Ran, home: &str, labels: Labels, words: &[(&str, Option<u16>)]) -> World {
    let names = words.iter().map(|(name, port)| ("catalog", *name, port.map(Port)));
    let work = Scheduled {
        job: Subject::new("CronJob", &home.into(), "report"),
        names: names.collect(),
        early: Names::default(),
        ran,
        rests: Some(seconds(60)),
        template: Template { labels, ..Template::default() },
    };
    shop(|world| world.snapshot.scheduled = Reading::Known(Arc::new(vec![Arc::new(work)])))
}

fn bare() -> Labels {
    Labels::default().with("sidecar.istio.io/inject", "false")
}

/// It is there so seldom that nobody has seen what it sends. The look-back is an hour.
#[test]
fn holds_for_work_by_a_schedule_that_nobody_saw() {
    let catalog = [("catalog", None)];
    let long_ago = Ran::At(at(World::shop().now - 3599));
    for ran in [Ran::Never, long_ago] {
        held_by(work(ran, "front", bare(), &catalog), Code::RareCaller);
        held_by(work(ran, "elsewhere", Labels::default(), &catalog), Code::RareCaller);
        let ambient = bare().with("istio.io/dataplane-mode", "ambient");
        held_by(work(ran, "front", ambient, &catalog), Code::RareCaller);
    }
    let world = work(Ran::Never, "front", bare(), &catalog);
    let evaluation = judged(&world);
    let found = evaluation.obstacles().into_iter().find(|one| one.code == Code::RareCaller);
    assert_eq!(found.unwrap().subject, Subject::new("CronJob", &"front".into(), "report"));
    for mut passes in [
        work(Ran::At(at(World::shop().now)), "front", bare(), &catalog),
        work(Ran::Never, "front", Labels::default(), &catalog),
        work(Ran::Never, "front", bare(), &[("elsewhere", None)]),
    ] {
        passes.visits(LONG);
        assert_eq!(passes.mode("catalog"), Some(Mode::Strict));
    }
    let mut excepted = work(Ran::Never, "front", bare(), &catalog);
    excepted.set_workload_policy("catalog", "port", 8080, Mode::Permissive);
    excepted.visits(LONG);
    assert_eq!(excepted.mode("catalog"), Some(Mode::Strict));
    let unread = Cause::NotRead("CronJobs".into());
    held_by(shop(|w| w.snapshot.scheduled = Reading::Unknown(unread)), Code::CallersUnknown);
}

/// The name of a headless Service leads to its pods, and the number to the container.
#[test]
fn the_port_that_a_word_names_is_the_containers_behind_a_headless_service() {
    let is_held = |dialled: u16, headless: bool, excepted: u16| {
        let mut world = work(Ran::Never, "front", bare(), &[("catalog", Some(dialled))]);
        world.edit("catalog", |facts| facts.services[0].headless = headless);
        world.set_workload_policy("catalog", "port", excepted, Mode::Permissive);
        judged(&world).has(Code::RareCaller)
    };
    // The Service's port 80 leads to the container's 8080.
    assert!(!is_held(80, false, 8080));
    assert!(!is_held(8080, true, 8080));
    assert!(is_held(80, true, 8080));
    assert!(is_held(9090, true, 8080));
    let mut portless = work(Ran::Never, "front", bare(), &[("catalog", None)]);
    portless.edit("catalog", |facts| {
        facts.services[0].headless = true;
        facts.services[0].ports.clear();
    });
    assert!(judged(&portless).has(Code::RareCaller));
    // A number that the Service does not have was no port, perhaps.
    assert!(is_held(9090, false, 9090));
}

/// An ExternalName is another name for the same pods.
#[test]
fn whoever_is_led_here_under_another_name_is_refused_as_well() {
    let led_to = |external: &str| {
        let mut world = shop(|world| world.entrance(Caller::Admission, "front"));
        world.edit("front", |facts| {
            let service = &mut facts.services[0];
            service.selector = Labels::default();
            service.external = Some(Host::new(external));
        });
        judged(&world).has(Code::WebhookBackend)
    };
    assert!(led_to("catalog.catalog.svc.cluster.local"));
    assert!(led_to("catalog.catalog.svc.cluster.local."));
    // Of a Service with an address pods have no names.
    assert!(!led_to("catalog-0.catalog.catalog.svc.cluster.local"));
    assert!(!led_to("example.com"));
}

#[test]
fn nobody_in_the_mesh_stands_behind_the_apiservers_own_service() {
    let mut world = shop(|world| {
        world.entrance(Caller::Admission, "catalog");
        world.edit("catalog", |facts| facts.services[0].selector = Labels::default());
    });
    assert!(judged(&world).has(Code::CallersUnknown));
    let own = world.snapshot.namespaces.remove(&"catalog".into()).unwrap();
    let mut own = Arc::unwrap_or_clone(own);
    own.name = "default".into();
    own.services[0].name = "kubernetes".into();
    world.entrance(Caller::Admission, "default");
    let Reading::Known(entrances) = &mut world.snapshot.entrances else { unreachable!() };
    Arc::make_mut(entrances).iter_mut().for_each(|one| one.service = "kubernetes".into());
    world.snapshot.namespaces.insert("default".into(), Arc::new(own.clone()));
    assert!(!Evaluation::run(&world.plan, &world.snapshot, &own).has(Code::CallersUnknown));
}

#[test]
fn pods_that_ztunnel_will_serve_are_refused_before_they_are_there() {
    let to_come = |labels: Labels| {
        let mut world = World::shop();
        world.edit("catalog", |facts| {
            let mut other = facts.workloads.values().next().unwrap().clone();
            other.id.name = "other".into();
            other.pods.clear();
            other.template = Some(Template { labels, ..Template::default() });
            facts.workloads.insert(other.id.clone(), other);
        });
        judged(&world).has(Code::DataplaneNotCovered)
    };
    assert!(to_come(bare().with("istio.io/dataplane-mode", "ambient")));
    assert!(!to_come(bare()));
    assert!(!to_come(Labels::default()));
}

/// What nginx resolves for an ExternalName is not what its sidecar knows.
#[test]
fn an_ingress_to_another_name_goes_past_the_sidecar() {
    let calls = |name: &str| {
        let calls = Some(name.into());
        IngressController { calls, ..controller("k8s.io/ingress-nginx") }
    };
    let mut world = routed(calls("catalog.catalog"), "ingress-nginx");
    assert!(!judged(&world).has(Code::IngressWithoutProxy));
    world.edit("front", |facts| {
        let service = &mut facts.services[0];
        service.name = "catalog".into();
        service.selector = Labels::default();
        service.external = Some(Host::new("catalog.catalog.svc.cluster.local"));
    });
    world.entrance(Caller::Ingress(calls("catalog.front")), "front");
    let Reading::Known(entrances) = &mut world.snapshot.entrances else { unreachable!() };
    Arc::make_mut(entrances).iter_mut().for_each(|one| one.service = "catalog".into());
    assert!(judged(&world).has(Code::IngressWithoutProxy));
}

/// What a sidecar does not take it does not send as mutual TLS.
#[test]
fn whoever_sends_past_its_sidecar_is_none_of_the_mesh() {
    let past = || Arc::new(Inbound { sends_past: true, ..Inbound::default() });
    let calls = Some("catalog.catalog".into());
    let nginx = IngressController { calls, ..controller("k8s.io/ingress-nginx") };
    let mut world = routed(nginx, "ingress-nginx");
    world.edit_pods("front", |pod| pod.inbound = past());
    assert!(judged(&world).has(Code::IngressWithoutProxy));
    let mut job = work(Ran::Never, "front", Labels::default(), &[("catalog", None)]);
    assert!(!judged(&job).has(Code::RareCaller));
    let Reading::Known(all) = &mut job.snapshot.scheduled else { unreachable!() };
    Arc::make_mut(&mut Arc::make_mut(all)[0]).template.inbound = past();
    assert!(judged(&job).has(Code::RareCaller));
}

/// Its init containers run before any sidecar that is not native.
#[test]
fn what_a_meshed_job_calls_before_its_sidecar_runs_must_have_been_seen() {
    let early = |ran: Ran| {
        let mut world = work(ran, "front", Labels::default(), &[("catalog", None)]);
        let Reading::Known(all) = &mut world.snapshot.scheduled else { unreachable!() };
        let work = Arc::make_mut(&mut Arc::make_mut(all)[0]);
        work.early = std::mem::take(&mut work.names);
        judged(&world).has(Code::RareCaller)
    };
    assert!(early(Ran::Never));
    assert!(!early(Ran::At(at(World::shop().now))));
}

/// A run that had a sidecar shows nothing of what one without would send.
#[test]
fn a_run_that_had_a_sidecar_does_not_count_for_those_that_will_not() {
    let now = World::shop().now;
    let held = |proxy: Proxy| {
        let mut world = work(Ran::At(at(now)), "front", bare(), &[("catalog", None)]);
        world.edit("front", |facts| {
            let mut run = facts.workloads.values().next().unwrap().clone();
            run.id = WorkloadRef::new("front", "CronJob", "report");
            run.template = None;
            run.pods.truncate(1);
            run.pods[0].phase = Phase::Completed;
            run.pods[0].proxy = proxy;
            facts.workloads.insert(run.id.clone(), run);
        });
        judged(&world).has(Code::RareCaller)
    };
    assert!(!held(Proxy::None));
    assert!(held(Proxy::Sidecar { revision: None, announces_tls: true }));
}

/// A pod that is on its way without a sidecar calls somebody as soon as it is there.
#[test]
fn pods_on_their_way_without_a_sidecar_are_said() {
    let said = |phase: Phase| {
        let mut world = World::shop();
        world.edit("catalog", |facts| {
            let mut other = facts.workloads.values().next().unwrap().clone();
            other.id.name = "other".into();
            other.template = Some(Template { labels: bare(), ..Template::default() });
            other.pods.iter_mut().for_each(|pod| pod.phase = phase);
            facts.workloads.insert(other.id.clone(), other);
        });
        judged(&world).has(Code::TemplateOptsOut)
    };
    assert!(said(Phase::Pending));
    assert!(!said(Phase::Completed));
}

/// Clients in other clusters are in no object that is read here.
#[test]
fn a_mesh_that_is_larger_than_the_cluster_holds_until_somebody_answers_for_it() {
    let mut world = shop(|world| {
        world.edit("front", |facts| {
            facts.services[0].labels = Labels::default().with("istio", "eastwestgateway");
        });
    });
    held_by(world.clone(), Code::OtherClusterClients);
    world.plan.waivers.acknowledgements.push(Acknowledgement {
        code: Code::OtherClusterClients.id().into(),
        subject: Subject::namespace(&"catalog".into()),
        answer: Answer {
            owner: "platform".into(),
            reason: "all of them have sidecars".into(),
            expires: at(1_000_000),
        },
    });
    assert!(judged(&world).obstacles().is_empty());
    world.edit("front", |facts| {
        facts.services[0].labels = Labels::default().with("istio", "ingressgateway");
    });
    assert!(!judged(&world).has(Code::OtherClusterClients));
}

/// Whoever warns of a port says less of it than what would break there.
#[test]
fn what_proxies_call_by_themselves_hides_nothing_heavier() {
    let world = |is_called: bool| {
        shop(|world| {
            world.telemetry.callers = Reading::Unknown(Cause::NotRead("a metrics source".into()));
            world.edit("catalog", |facts| {
                facts.services[0].ports[0].app_protocol = Some("https".into());
            });
            if is_called {
                world.entrance(Caller::Proxies, "catalog");
            }
        })
    };
    for is_called in [false, true] {
        let evaluation = judged(&world(is_called));
        let tls = evaluation.findings().into_iter().find(|one| one.code == Code::AppOwnTls);
        assert_eq!(tls.map(|found| found.level), Some(Level::Block));
        assert_eq!(evaluation.has(Code::ProxyOwnCalls), is_called);
    }
}
