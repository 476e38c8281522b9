use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccount,
    ServiceAccountTokenProjection, Volume,
};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};

use crate::{Doing, Error};

/// An hour, when a pod does not say.
const TOKEN_SECONDS: i64 = 3600;

/// Makes the volumes of a pod; their names, and where on this machine they are.
pub(super) async fn make(
    client: &Client,
    pod: &Pod,
    folder: &Path,
) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut made = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let path = folder.join(&volume.name);
        let making = || format!("making the volume {} of pod {}", volume.name, pod.name_any());
        std::fs::create_dir_all(&path).doing(making())?;
        let files = Source { client, pod }.files(volume).await.doing(making())?;
        for (name, content) in files {
            let file = path.join(name);
            std::fs::create_dir_all(file.parent().unwrap_or(&path)).doing(making())?;
            std::fs::write(file, content).doing(making())?;
        }
        // Like an emptyDir, for whichever user the container runs as.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).doing(making())?;
        made.insert(volume.name.clone(), path);
    }
    Ok(made)
}

/// Files by their paths within a volume.
type Files = Vec<(String, Vec<u8>)>;

/// Where a volume's content comes from.
struct Source<'a> {
    client: &'a Client,
    pod: &'a Pod,
}

impl Source<'_> {
    async fn files(&self, volume: &Volume) -> Result<Files, Error> {
        if volume.empty_dir.is_some() {
            return Ok(vec![]);
        }
        if let Some(source) = &volume.config_map {
            let optional = source.optional == Some(true);
            return self.config_map(&source.name, source.items.as_deref(), optional).await;
        }
        if let Some(source) = &volume.secret {
            let name = source.secret_name.as_deref().unwrap_or_default();
            let optional = source.optional == Some(true);
            return self.secret(name, source.items.as_deref(), optional).await;
        }
        if let Some(source) = &volume.downward_api {
            return self.fields(source.items.as_deref().unwrap_or_default());
        }
        let Some(projected) = &volume.projected else {
            return Err(Error::new("this node makes no volumes of its kind"));
        };
        let mut files = vec![];
        for source in projected.sources.iter().flatten() {
            if let Some(token) = &source.service_account_token {
                files.push((token.path.clone(), self.token(token).await?.into_bytes()));
            }
            if let Some(source) = &source.secret {
                let optional = source.optional == Some(true);
                files.extend(self.secret(&source.name, source.items.as_deref(), optional).await?);
            }
            if let Some(source) = &source.config_map {
                let optional = source.optional == Some(true);
                files.extend(
                    self.config_map(&source.name, source.items.as_deref(), optional).await?,
                );
            }
            if let Some(source) = &source.downward_api {
                files.extend(self.fields(source.items.as_deref().unwrap_or_default())?);
            }
        }
        Ok(files)
    }

    async fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<Files, Error> {
        let reading = || format!("reading the ConfigMap {name}");
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace());
        let map = maps.get_opt(name).await.doing(reading())?;
        let data = map.map(|map| {
            let texts = map.data.unwrap_or_default().into_iter();
            let bytes = map.binary_data.unwrap_or_default().into_iter();
            texts
                .map(|(key, text)| (key, text.into_bytes()))
                .chain(bytes.map(|(key, bytes)| (key, bytes.0)))
                .collect()
        });
        chosen(&format!("ConfigMap {name}"), data, items, optional)
    }

    async fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<Files, Error> {
        let reading = || format!("reading the Secret {name}");
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace());
        let secret = secrets.get_opt(name).await.doing(reading())?;
        let data = secret.map(|secret| {
            let data = secret.data.unwrap_or_default().into_iter();
            data.map(|(key, bytes)| (key, bytes.0)).collect()
        });
        chosen(&format!("Secret {name}"), data, items, optional)
    }

    fn fields(&self, items: &[DownwardAPIVolumeFile]) -> Result<Files, Error> {
        let lines = |map: &BTreeMap<String, String>| {
            map.iter().map(|(key, value)| format!("{key}={value:?}\n")).collect::<String>()
        };
        let one = |item: &DownwardAPIVolumeFile| {
            let field = item.field_ref.as_ref().map(|field| field.field_path.as_str());
            let content = match field {
                Some("metadata.labels") => lines(self.pod.labels()),
                Some("metadata.annotations") => lines(self.pod.annotations()),
                Some("metadata.name") => self.pod.name_any(),
                Some("metadata.namespace") => self.namespace(),
                _ => return Err(Error::new(format!("{} is of a field not known here", item.path))),
            };
            Ok((item.path.clone(), content.into_bytes()))
        };
        items.iter().map(one).collect()
    }

    async fn token(&self, wanted: &ServiceAccountTokenProjection) -> Result<String, Error> {
        let account = self.pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let account = account.unwrap_or_else(|| "default".to_owned());
        let spec = TokenRequestSpec {
            audiences: wanted.audience.clone().map(|audience| vec![audience]),
            expiration_seconds: Some(wanted.expiration_seconds.unwrap_or(TOKEN_SECONDS)),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), &self.namespace());
        let asking = || format!("asking for a token of the ServiceAccount {account}");
        let params = PostParams::default();
        let answer = accounts.create_token_request(&account, &params, &request).await;
        let status = answer.doing(asking())?.status;
        let token = status.and_then(|status| status.token);
        token.ok_or_else(|| Error::new(format!("{}: no token", asking())))
    }

    fn namespace(&self) -> String {
        self.pod.namespace().unwrap_or_default()
    }
}

/// The items that a volume wants of a ConfigMap or Secret, or all of it.
fn chosen(
    object: &str,
    data: Option<BTreeMap<String, Vec<u8>>>,
    items: Option<&[KeyToPath]>,
    optional: bool,
) -> Result<Files, Error> {
    let Some(data) = data else {
        return match optional {
            true => Ok(vec![]),
            false => Err(Error::new(format!("there is no {object}"))),
        };
    };
    let Some(items) = items else { return Ok(data.into_iter().collect()) };
    let one = |item: &KeyToPath| match data.get(&item.key) {
        Some(value) => Ok((item.path.clone(), value.clone())),
        None => Err(Error::new(format!("the {object} has no {}", item.key))),
    };
    items.iter().map(one).collect()
}
