use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, ResourceFieldSelector};
use kube::ResourceExt;

use crate::Error;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables of a container, in their order, as a kubelet works them out.
pub(super) fn of(
    pod: &Pod,
    container: &Container,
    addresses: &Addresses,
) -> Result<Vec<(String, String)>, Error> {
    let mut known =
        vec![("PATH".to_owned(), PATH.to_owned()), ("HOSTNAME".to_owned(), pod.name_any())];
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => expanded(variable.value.as_deref().unwrap_or_default(), &known),
            Some(_) => from_elsewhere(pod, container, variable, addresses).ok_or_else(|| {
                Error::new(format!(
                    "container {} takes {} from a place that this node does not know",
                    container.name, variable.name
                ))
            })?,
        };
        known.push((variable.name.clone(), value));
    }
    Ok(known)
}

/// Where the pod is.
pub(super) struct Addresses {
    pub(super) pod: String,
    pub(super) host: String,
}

/// With each `$(NAME)` of a known variable replaced by its value.
pub(super) fn expanded(text: &str, known: &[(String, String)]) -> String {
    // The last of one name wins, as it does for the container.
    let values: BTreeMap<_, _> =
        known.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut result = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find("$(") {
        let (before, reference) = rest.split_at(begin);
        result.push_str(before);
        let Some(end) = reference.find(')') else {
            rest = reference;
            break;
        };
        let (reference, after) = reference.split_at(end + 1);
        match values.get(&reference[2..end]) {
            Some(value) => result.push_str(value),
            None => result.push_str(reference),
        }
        rest = after;
    }
    result + rest
}

fn from_elsewhere(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    addresses: &Addresses,
) -> Option<String> {
    let source = variable.value_from.as_ref()?;
    if let Some(field) = &source.field_ref {
        return field_of(pod, &field.field_path, addresses);
    }
    amount(container, source.resource_field_ref.as_ref()?)
}

/// A field of the pod, by its path in the downward API.
fn field_of(pod: &Pod, path: &str, addresses: &Addresses) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let within = |map: &str| path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = within("metadata.labels") {
        return Some(pod.labels().get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = within("metadata.annotations") {
        return Some(pod.annotations().get(key).cloned().unwrap_or_default());
    }
    match path {
        "metadata.name" => Some(pod.name_any()),
        "metadata.namespace" => pod.namespace(),
        "metadata.uid" => pod.uid(),
        "spec.nodeName" => spec.node_name.clone(),
        "spec.serviceAccountName" => spec.service_account_name.clone(),
        "status.podIP" => Some(addresses.pod.clone()),
        "status.hostIP" => Some(addresses.host.clone()),
        _ => None,
    }
}

/// A limit or request of the container, in whole units of the divisor, rounded up.
fn amount(container: &Container, selector: &ResourceFieldSelector) -> Option<String> {
    let (list, resource) = selector.resource.split_once('.')?;
    let resources = container.resources.as_ref()?;
    let list = match list {
        "limits" => resources.limits.as_ref()?,
        "requests" => resources.requests.as_ref()?,
        _ => return None,
    };
    let divisor = match &selector.divisor {
        Some(divisor) if divisor.0 != "0" => thousandths(&divisor.0)?,
        _ => 1000,
    };
    Some(thousandths(&list.get(resource)?.0)?.div_ceil(divisor).to_string())
}

/// A Kubernetes quantity in thousandths: `2`, `500m`, `1Gi`.
fn thousandths(quantity: &str) -> Option<u64> {
    let digits = quantity.find(|c: char| !c.is_ascii_digit()).unwrap_or(quantity.len());
    let (number, unit) = quantity.split_at(digits);
    let factor = match unit {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_references_are_replaced_and_others_stay() {
        let known = [("A".to_owned(), "one".to_owned())];
        assert_eq!(expanded("$(A).svc $(B) $(A", &known), "one.svc $(B) $(A");
    }

    #[test]
    fn quantities_are_read_in_their_units() {
        assert_eq!(thousandths("1500m"), Some(1500));
        assert_eq!(thousandths("1Gi"), Some(1_073_741_824_000));
        assert_eq!(thousandths("1.5"), None);
    }
}
