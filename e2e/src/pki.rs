use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use crate::{Doing, Error};

/// The certificates of one cluster.
pub(crate) struct Pki {
    folder: PathBuf,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn create(folder: PathBuf) -> Result<Self, Error> {
        let making = "making the cluster's certificates";
        std::fs::create_dir_all(&folder).doing(making)?;
        let mut params = named("meshrollout-e2e-ca", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().doing(making)?;
        let key_pem = key.serialize_pem();
        let ca = CertifiedIssuer::self_signed(params, key).doing(making)?;
        let pki = Self { folder, ca };
        pki.write("ca.crt", &pki.ca.pem())?;
        pki.write("ca.key", &key_pem)?;

        let mut apiserver = named("kube-apiserver", None);
        for name in ["localhost", "kubernetes.default.svc", "127.0.0.1", "10.0.0.1"] {
            apiserver.subject_alt_names.push(match name.parse() {
                Ok(ip) => rcgen::SanType::IpAddress(ip),
                Err(_) => rcgen::SanType::DnsName(name.try_into().doing(making)?),
            });
        }
        apiserver.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        pki.issue("apiserver", &apiserver)?;

        let service_accounts = KeyPair::generate().doing(making)?;
        pki.write("service-accounts.key", &service_accounts.serialize_pem())?;
        pki.write("service-accounts.pub", &service_accounts.public_key_pem())?;
        Ok(pki)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A kubeconfig for `user`, who is known to the apiserver by a client certificate.
    pub(crate) fn kubeconfig(
        &self,
        server: &str,
        user: &str,
        group: Option<&str>,
    ) -> Result<PathBuf, Error> {
        let mut params = named(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        // User names may hold colons and slashes.
        let file: String =
            user.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        self.issue(&file, &params)?;
        let ca = self.path("ca.crt");
        let (crt, key) = (self.path(&format!("{file}.crt")), self.path(&format!("{file}.key")));
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "e2e", "cluster":
                {"server": server, "certificate-authority": text(&ca)}}],
            "users": [{"name": user, "user":
                {"client-certificate": text(&crt), "client-key": text(&key)}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": user}}],
            "current-context": "e2e",
        });
        // JSON is YAML.
        self.write(&format!("{file}.kubeconfig"), &config.to_string())
    }

    /// The authority, a certificate for a server of these DNS names and its key, all as PEM.
    pub(crate) fn server(&self, file: &str, hosts: &[&str]) -> Result<[String; 3], Error> {
        let mut params = named(file, None);
        for host in hosts {
            let name = (*host).try_into().doing(format!("issuing a certificate for {host}"))?;
            params.subject_alt_names.push(rcgen::SanType::DnsName(name));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(file, &params)?;
        let read = |path: PathBuf| {
            std::fs::read_to_string(&path).doing(format!("reading {}", path.display()))
        };
        Ok([
            self.ca.pem(),
            read(self.path(&format!("{file}.crt")))?,
            read(self.path(&format!("{file}.key")))?,
        ])
    }

    fn issue(&self, file: &str, params: &CertificateParams) -> Result<(), Error> {
        let issuing = || format!("issuing the certificate of {file}");
        let key = KeyPair::generate().doing(issuing())?;
        let certificate = params.signed_by(&key, &self.ca).doing(issuing())?;
        self.write(&format!("{file}.crt"), &certificate.pem())?;
        self.write(&format!("{file}.key"), &key.serialize_pem())?;
        Ok(())
    }

    fn write(&self, name: &str, content: &str) -> Result<PathBuf, Error> {
        let path = self.path(name);
        std::fs::write(&path, content).doing(format!("writing {name}"))?;
        Ok(path)
    }
}

fn named(common_name: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params
}

pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
