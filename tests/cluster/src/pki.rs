//! Keys and certificates of one cluster. Its certificate authority lives as long as the cluster does.

use std::{fs, net::IpAddr, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};

use crate::error::Error;

/// Signs the certificates of a cluster.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, both PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Who a certificate is for.
pub(crate) struct Subject<'a> {
    /// User.
    pub(crate) name: &'a str,
    /// Group.
    pub(crate) organisation: Option<&'a str>,
    /// Names and addresses of a server; none for a client.
    pub(crate) hosts: &'a [&'a str],
}

impl Authority {
    pub(crate) fn new() -> Result<Self, Error> {
        let failed = |source| Error::Certificate {
            subject: "the certificate authority".to_owned(),
            source,
        };
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = name("lem-test-cluster", None);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().map_err(failed)?;
        let issuer = CertifiedIssuer::self_signed(parameters, key).map_err(failed)?;
        Ok(Self { issuer })
    }

    /// The authority's certificate.
    pub(crate) fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// The authority's key, with which the controller manager signs.
    pub(crate) fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    pub(crate) fn issue(&self, subject: &Subject<'_>) -> Result<Identity, Error> {
        let failed = |source| Error::Certificate {
            subject: subject.name.to_owned(),
            source,
        };
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = name(subject.name, subject.organisation);
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = if subject.hosts.is_empty() {
            vec![ExtendedKeyUsagePurpose::ClientAuth]
        } else {
            vec![ExtendedKeyUsagePurpose::ServerAuth]
        };
        parameters.subject_alt_names = subject
            .hosts
            .iter()
            .map(|host| alternative(host))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl Identity {
    /// Writes `<name>.crt` and `<name>.key`.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> Result<(), Error> {
        for (extension, content) in [("crt", &self.certificate), ("key", &self.key)] {
            let path = folder.join(format!("{name}.{extension}"));
            fs::write(&path, content).map_err(Error::file("write", &path))?;
        }
        Ok(())
    }
}

/// The key pair that signs tokens of service accounts: private and public half, PEM.
pub(crate) fn token_keys() -> Result<(String, String), Error> {
    let key = KeyPair::generate().map_err(|source| Error::Certificate {
        subject: "the ServiceAccounts".to_owned(),
        source,
    })?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn name(common: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name.push(DnType::CommonName, common);
    name
}

fn alternative(host: &str) -> Result<SanType, rcgen::Error> {
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(Ia5String::try_from(host)?)),
    }
}
