//! The definitions of the custom resources: what the derive makes, made fit for an apiserver, each
//! with its fingerprint.

use super::{MeshApproval, MeshFence, MeshReport, MeshRollout, names};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::{CustomResourceExt, ResourceExt};
use meshrollout_core::terms::digits;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// The CustomResourceDefinitions as they are installed, in the order of their file names.
///
/// Optional fields come out of the derive as `nullable`; here that is taken back, so that
/// `soak: null` is defaulted or refused like any other wrong value instead of being stored.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds =
        vec![MeshApproval::crd(), MeshFence::crd(), MeshReport::crd(), MeshRollout::crd()];
    // Without a condition kstatus takes an object for done: until the operator has looked at it, it
    // is not.
    let untouched = json!({"conditions": [{
        "type": "Ready", "status": "Unknown", "reason": "NotLookedAt",
        "message": "the operator has not looked at it yet",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }]});
    for version in crds
        .iter_mut()
        .filter(|crd| crd.spec.names.kind == "MeshRollout")
        .flat_map(|crd| &mut crd.spec.versions)
    {
        let root = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let status = root.and_then(|root| root.properties.as_mut()?.get_mut("status"));
        if let Some(status) = status {
            status.default = Some(JSON(untouched.clone()));
        }
    }
    for schema in crds.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        if let Some(root) = schema.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
            refuse_null(root);
        }
    }
    for crd in &mut crds {
        let fingerprint = fingerprint(crd);
        let notes = crd.metadata.annotations.get_or_insert_default();
        notes.insert(names::SCHEMA.to_owned(), fingerprint);
    }
    crds
}

/// The name and the fingerprint of each of our definitions.
pub fn fingerprints() -> &'static [(String, String)] {
    static ALL: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
        let named = |crd: CustomResourceDefinition| {
            (crd.name_any(), crd.annotations().get(names::SCHEMA).cloned().unwrap_or_default())
        };
        crds().into_iter().map(named).collect()
    });
    &ALL
}

/// By it an operator knows its own definitions: with others the apiserver would drop fields that it
/// has not heard of, `approval: Required` among them, without a word. What is only said to people
/// does not count: descriptions, messages, columns.
fn fingerprint(crd: &CustomResourceDefinition) -> String {
    fn wordless(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                // A field may be called so itself: that one is no string.
                fields.retain(|name, field| {
                    !matches!(name.as_str(), "description" | "message") || !field.is_string()
                });
                fields.values_mut().for_each(wordless);
            }
            Value::Array(items) => items.iter_mut().for_each(wordless),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let versions = crd.spec.versions.iter();
    let versions = versions.map(|it| json!([it.name, it.served, it.storage, it.schema]));
    let mut said = json!([crd.spec.group, crd.spec.scope, versions.collect::<Vec<_>>()]);
    wordless(&mut said);
    digits(&said.to_string())
}

fn refuse_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    for property in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        refuse_null(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => refuse_null(items),
        Some(JSONSchemaPropsOrArray::Schemas(many)) => many.iter_mut().for_each(refuse_null),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every string, list and map in the schema says how long it may get: the apiserver's estimate
    /// of what a CEL rule costs, and the size of a status, depend on it.
    #[test]
    fn every_list_string_and_map_is_bounded() {
        fn visit(path: &str, schema: &JSONSchemaProps, unbounded: &mut Vec<String>) {
            let bounded = match schema.type_.as_deref() {
                Some("array") => schema.max_items.is_some(),
                Some("string") => {
                    schema.max_length.is_some() || schema.enum_.is_some() || schema.format.is_some()
                }
                Some("object") if schema.additional_properties.is_some() => {
                    schema.max_properties.is_some()
                }
                _ => true,
            };
            if !bounded {
                unbounded.push(path.to_owned());
            }
            for (name, property) in schema.properties.iter().flatten() {
                visit(&format!("{path}.{name}"), property, unbounded);
            }
            if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
                visit(&format!("{path}[]"), items, unbounded);
            }
        }
        let mut unbounded = Vec::new();
        for crd in crds() {
            for (name, property) in root(&crd).properties.iter().flatten() {
                if name == "spec" || name == "status" {
                    visit(&format!("{}.{name}", crd.spec.names.kind), property, &mut unbounded);
                }
            }
        }
        // Kubernetes' own Condition type has no bounds in its schema.
        unbounded.retain(|path| !path.contains(".conditions[]"));
        assert_eq!(unbounded, Vec::<String>::new());
    }

    #[test]
    fn every_field_is_described() {
        fn visit(path: &str, schema: &JSONSchemaProps, silent: &mut Vec<String>) {
            for (name, property) in schema.properties.iter().flatten() {
                let path = format!("{path}.{name}");
                if property.description.as_deref().unwrap_or_default().is_empty() {
                    silent.push(path.clone());
                }
                visit(&path, property, silent);
            }
            if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
                visit(&format!("{path}[]"), items, silent);
            }
        }
        let mut silent = Vec::new();
        for crd in crds() {
            for (name, property) in root(&crd).properties.iter().flatten() {
                if name == "spec" || name == "status" {
                    visit(&format!("{}.{name}", crd.spec.names.kind), property, &mut silent);
                }
            }
        }
        assert_eq!(silent, Vec::<String>::new());
    }

    #[test]
    fn null_is_accepted_nowhere() {
        let text = serde_json::to_string(&crds()).unwrap();
        assert!(!text.contains("nullable"));
    }

    fn root(crd: &CustomResourceDefinition) -> &JSONSchemaProps {
        crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap()
    }
}
