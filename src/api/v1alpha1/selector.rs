//! Which namespaces a stage covers, by their labels.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The name of a label, with or without the part before the slash. No backslash: the same text
/// stands in a CEL string.
const LABEL_NAME: &str = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?\
    [A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";

/// The value of a label; may be empty.
const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

/// Chooses namespaces by their labels, now and later; all parts must match.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "(has(self.matchLabels) && self.matchLabels.size() > 0) || (has(self.matchExpressions) && self.matchExpressions.size() > 0)"
    ).message("an empty selector would cover every namespace of the cluster: give matchLabels or matchExpressions")
)]
pub struct NamespaceSelector {
    /// Labels a namespace must carry with exactly these values. At most 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16), schema_with = "label_values")]
    #[x_kube(validation = Rule::new(
        format!("self.all(key, key.size() <= 317 && key.matches('{LABEL_NAME}'))")
    ).message("every key must be a label name, as in tier or example.com/tier"))]
    pub match_labels: BTreeMap<String, String>,

    /// Conditions on labels; a namespace must meet all of them. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub match_expressions: Vec<LabelExpression>,
}

/// One condition on one label.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : true"
    ).message("operators In and NotIn need at least one value").field_path(".values"),
    validation = Rule::new(
        "self.operator in ['Exists', 'DoesNotExist'] ? !has(self.values) || self.values.size() == 0 : true"
    ).message("operators Exists and DoesNotExist take no values: remove them").field_path(".values")
)]
pub struct LabelExpression {
    /// The label's name.
    #[schemars(
        length(min = 1, max = 317),
        regex(pattern = LABEL_NAME)
    )]
    pub key: String,

    /// How the label is compared: In, NotIn, Exists or DoesNotExist. As in Kubernetes, NotIn and
    /// DoesNotExist also match a namespace without the label.
    pub operator: LabelOperator,

    /// The values for In and NotIn; at most 32, none for Exists and DoesNotExist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(max = 63), regex(pattern = LABEL_VALUE))
    )]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum LabelOperator {
    /// The label is there and its value is one of the values.
    In,
    /// The label is absent, or its value is none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

fn label_values(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "pattern": LABEL_VALUE,
        },
    })
}
