//! Quorum reads: what a write of STRICT stands on is read again, from the newest state.

use super::kind::{self, Kind, place};
use super::store::{Served, Store};
use super::table::Place;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use meshrollout_core::ident::Namespace;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;

/// As large as client-go's pages: bounds what is in memory at once.
const PAGE: u32 = 500;

/// A read that takes longer is given up. The evidence it would confirm grows old meanwhile.
const LIMIT: Duration = Duration::from_secs(10);

/// What could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The apiserver refused, or its answer was not understood.
    #[error("failed to read {kind}")]
    Refused {
        /// The kind.
        kind: &'static str,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("reading {kind} took longer than {} s", LIMIT.as_secs())]
    Late {
        /// The kind.
        kind: &'static str,
    },
    /// What was read of our own kinds may have lost fields.
    #[error("CustomResourceDefinition {0} is of another version than this operator")]
    Foreign(String),
}

/// All that a write in `namespace` stands on, just read: the namespace with its pods, Services,
/// workloads, WorkloadEntries and roots, and everything mesh-wide that may stop it. Sidecars,
/// EnvoyFilters and WasmPlugins only warn.
pub(super) async fn read(client: &Client, namespace: &Namespace) -> Result<Store, ReadError> {
    let name = namespace.as_str();
    // Together: each takes one round trip, and all are as of one time that lies after the first.
    let (
        header,
        pods,
        deployments,
        stateful_sets,
        daemon_sets,
        services,
        entries,
        roots,
        policies,
        rules,
        overrides,
        injectors,
        validators,
        api_services,
        definitions,
        cron_jobs,
        ingresses,
        ingress_classes,
        named_mesh,
        labelled_mesh,
    ) = tokio::try_join!(
        the_namespace(client, name),
        within(client, name, kind::PODS),
        within(client, name, kind::DEPLOYMENTS),
        within(client, name, kind::STATEFUL_SETS),
        within(client, name, kind::DAEMON_SETS),
        within(client, name, kind::SERVICES),
        within(client, name, kind::WORKLOAD_ENTRIES),
        within(client, name, kind::ROOTS),
        everywhere(client, kind::POLICIES),
        everywhere(client, kind::RULES),
        everywhere(client, kind::OVERRIDES),
        everywhere(client, kind::INJECTORS),
        everywhere(client, kind::VALIDATORS),
        everywhere(client, kind::API_SERVICES),
        everywhere(client, kind::DEFINITIONS),
        everywhere(client, kind::CRON_JOBS),
        everywhere(client, kind::INGRESSES),
        everywhere(client, kind::INGRESS_CLASSES),
        everywhere(client, kind::NAMED_MESH),
        everywhere(client, kind::LABELLED_MESH),
    )?;
    let mut store = Store::default();
    file(&mut store, kind::NAMESPACES, header);
    file(&mut store, kind::PODS, pods);
    file(&mut store, kind::DEPLOYMENTS, deployments);
    file(&mut store, kind::STATEFUL_SETS, stateful_sets);
    file(&mut store, kind::DAEMON_SETS, daemon_sets);
    file(&mut store, kind::SERVICES, services);
    file(&mut store, kind::WORKLOAD_ENTRIES, entries);
    file(&mut store, kind::ROOTS, roots);
    file(&mut store, kind::POLICIES, policies);
    file(&mut store, kind::RULES, rules);
    file(&mut store, kind::OVERRIDES, overrides);
    file(&mut store, kind::INJECTORS, injectors);
    file(&mut store, kind::VALIDATORS, validators);
    file(&mut store, kind::API_SERVICES, api_services);
    file(&mut store, kind::DEFINITIONS, definitions);
    file(&mut store, kind::CRON_JOBS, cron_jobs);
    file(&mut store, kind::INGRESSES, ingresses);
    file(&mut store, kind::INGRESS_CLASSES, ingress_classes);
    file(&mut store, kind::NAMED_MESH, named_mesh);
    file(&mut store, kind::LABELLED_MESH, labelled_mesh);
    // Which of these there are is known by now.
    let (http_routes, grpc_routes, gateways, gateway_classes, service_monitors, pod_monitors) = tokio::try_join!(
        where_served(client, &store, kind::HTTP_ROUTES),
        where_served(client, &store, kind::GRPC_ROUTES),
        where_served(client, &store, kind::GATEWAYS),
        where_served(client, &store, kind::GATEWAY_CLASSES),
        where_served(client, &store, kind::SERVICE_MONITORS),
        where_served(client, &store, kind::POD_MONITORS),
    )?;
    file_if_read(&mut store, kind::HTTP_ROUTES, http_routes);
    file_if_read(&mut store, kind::GRPC_ROUTES, grpc_routes);
    file_if_read(&mut store, kind::GATEWAYS, gateways);
    file_if_read(&mut store, kind::GATEWAY_CLASSES, gateway_classes);
    file_if_read(&mut store, kind::SERVICE_MONITORS, service_monitors);
    file_if_read(&mut store, kind::POD_MONITORS, pod_monitors);
    Ok(store)
}

/// The kinds of which [`read`] reads every object, so that their watches do not matter. Policies
/// are none of them: what was made STRICT is watched by their watch alone.
pub(super) const WHOLE: [&str; 17] = [
    kind::RULES.name,
    kind::OVERRIDES.name,
    kind::INJECTORS.name,
    kind::VALIDATORS.name,
    kind::API_SERVICES.name,
    kind::DEFINITIONS.name,
    kind::CRON_JOBS.name,
    kind::INGRESSES.name,
    kind::INGRESS_CLASSES.name,
    kind::HTTP_ROUTES.name,
    kind::GRPC_ROUTES.name,
    kind::GATEWAYS.name,
    kind::GATEWAY_CLASSES.name,
    kind::SERVICE_MONITORS.name,
    kind::POD_MONITORS.name,
    kind::NAMED_MESH.name,
    kind::LABELLED_MESH.name,
];

type Facts<T> = Vec<(Place, T)>;

async fn the_namespace(
    client: &Client,
    name: &str,
) -> Result<Facts<crate::translate::facts::Header>, ReadError> {
    let kind = kind::NAMESPACES;
    let api = Api::<crate::kubernetes::Namespace>::all(client.clone());
    let object = in_time(kind.name, api.get_opt(name)).await?;
    Ok(object.into_iter().filter_map(|object| fact(kind, &object)).collect())
}

async fn within<K, T>(
    client: &Client,
    namespace: &str,
    kind: Kind<K, T>,
) -> Result<Facts<T>, ReadError>
where
    K: Clone + Debug + DeserializeOwned,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    list(Api::namespaced(client.clone(), namespace), kind).await
}

async fn everywhere<K, T>(client: &Client, kind: Kind<K, T>) -> Result<Facts<T>, ReadError>
where
    K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()>,
{
    list(Api::all(client.clone()), kind).await
}

/// Nothing where the definitions that were just read know no such kind.
async fn where_served<K, T>(
    client: &Client,
    store: &Store,
    kind: Kind<K, T>,
) -> Result<Option<Facts<T>>, ReadError>
where
    K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()>,
{
    match store.served::<K>() {
        Some(Served::Here) => everywhere(client, kind).await.map(Some),
        _ => Ok(None),
    }
}

/// Without a resource version a list is as of now, by the quorum's word.
async fn list<K, T>(api: Api<K>, kind: Kind<K, T>) -> Result<Facts<T>, ReadError>
where
    K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()>,
{
    let mut facts = vec![];
    let mut page = ListParams {
        field_selector: kind.fields.map(str::to_owned),
        label_selector: kind.labels.map(str::to_owned),
        limit: Some(PAGE),
        ..ListParams::default()
    };
    in_time(kind.name, async {
        loop {
            let list = api.list(&page).await?;
            facts.extend(list.items.iter().filter_map(|object| fact(kind, object)));
            page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            if page.continue_token.is_none() {
                return Ok(());
            }
        }
    })
    .await?;
    Ok(facts)
}

fn fact<K: Resource, T>(kind: Kind<K, T>, object: &K) -> Option<(Place, T)> {
    Some((place(object.meta()), (kind.read)(object)?))
}

async fn in_time<T>(
    kind: &'static str,
    reading: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ReadError> {
    match tokio::time::timeout(LIMIT, reading).await {
        Ok(read) => read.map_err(|source| ReadError::Refused { kind, source: Box::new(source) }),
        Err(_) => Err(ReadError::Late { kind }),
    }
}

fn file<K, T: PartialEq>(store: &mut Store, kind: Kind<K, T>, facts: Facts<T>) {
    let table = (kind.table)(store);
    table.begin();
    for (place, fact) in facts {
        table.arrive(place, Some(fact), kind.share);
    }
    table.finish();
}

fn file_if_read<K, T: PartialEq>(store: &mut Store, kind: Kind<K, T>, facts: Option<Facts<T>>) {
    if let Some(facts) = facts {
        file(store, kind, facts);
    }
}
