use std::collections::HashMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, TypeMeta};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use crate::{Doing, Error, until};

const FIELD_MANAGER: &str = "meshrollout-e2e";

/// Server-side apply for objects of any kind.
pub(crate) struct Applier {
    client: Client,
    resources: HashMap<String, Vec<(ApiResource, bool)>>,
}

impl Applier {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, resources: HashMap::new() }
    }

    /// One after the other, in the order given, as a person's `kubectl apply` does.
    pub(crate) async fn apply(&mut self, objects: &[Value]) -> Result<(), Error> {
        for object in objects {
            let (api, object) = self.prepare(object).await?;
            apply_one(&api, &object).await?;
        }
        Ok(())
    }

    /// Several at a time: for objects that do not need each other, and none of which is there yet.
    /// An apply would cost the apiserver twice as much.
    pub(crate) async fn create_together(&mut self, objects: &[Value]) -> Result<(), Error> {
        let mut prepared = vec![];
        for object in objects {
            prepared.push(self.prepare(object).await?);
        }
        stream::iter(&prepared)
            .map(|(api, object)| create_one(api, object))
            .buffer_unordered(8)
            .try_collect()
            .await
    }

    async fn prepare(
        &mut self,
        object: &Value,
    ) -> Result<(Api<DynamicObject>, DynamicObject), Error> {
        let object: DynamicObject =
            serde_json::from_value(object.clone()).doing("reading an object to apply")?;
        let Some(types) = object.types.clone() else {
            return Err(Error::new(format!("{} has no kind", object.name_any())));
        };
        let (resource, namespaced) = self.resource(&types).await?;
        let api = if namespaced {
            let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
            Api::namespaced_with(self.client.clone(), &namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        };
        Ok((api, object))
    }

    /// A kind whose CustomResourceDefinition is a moment old is served a moment later.
    async fn resource(&mut self, types: &TypeMeta) -> Result<(ApiResource, bool), Error> {
        let TypeMeta { api_version, kind } = types;
        let known = |resources: &HashMap<String, Vec<(ApiResource, bool)>>| {
            let of_version = resources.get(api_version)?;
            of_version.iter().find(|(resource, _)| resource.kind == *kind).cloned()
        };
        if let Some(found) = known(&self.resources) {
            return Ok(found);
        }
        let what = format!("{kind} of {api_version} to be served");
        until(&what, Duration::from_secs(10), async || {
            let served = self.served(api_version).await.map_err(|error| error.to_string())?;
            self.resources.insert(api_version.clone(), served);
            known(&self.resources).ok_or_else(|| "not in the list".to_owned())
        })
        .await
    }

    async fn served(&self, api_version: &str) -> kube::Result<Vec<(ApiResource, bool)>> {
        let list = match api_version.split_once('/') {
            Some(_) => self.client.list_api_group_resources(api_version).await?,
            None => self.client.list_core_api_resources(api_version).await?,
        };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let top_level = list.resources.into_iter().filter(|resource| !resource.name.contains('/'));
        Ok(top_level
            .map(|resource| {
                let of_api = ApiResource {
                    group: group.to_owned(),
                    version: version.to_owned(),
                    api_version: api_version.to_owned(),
                    kind: resource.kind,
                    plural: resource.name,
                };
                (of_api, resource.namespaced)
            })
            .collect())
    }
}

async fn apply_one(api: &Api<DynamicObject>, object: &DynamicObject) -> Result<(), Error> {
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let applied = api.patch(&object.name_any(), &params, &Patch::Apply(object)).await;
    applied.map(drop).doing(format!("applying {}", title(object)))
}

async fn create_one(api: &Api<DynamicObject>, object: &DynamicObject) -> Result<(), Error> {
    let params =
        PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&params, object).await {
        // Stored, though the answer to the first try was another.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        created => created.map(drop).doing(format!("creating {}", title(object))),
    }
}

fn title(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("", |types| types.kind.as_str());
    format!("{kind} {}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// The documents of a YAML text, empty ones left out.
pub(crate) fn documents(yaml: &str) -> Result<Vec<Value>, Error> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).doing("parsing YAML")?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}
