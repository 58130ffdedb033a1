//! Whom do clients trust?
//!
//! ```text
//!   ca.crt ── signed ──▶ tls.crt (127.0.0.1)  tls.key
//! ```
//!
//! Two certificates, since rustls refuses a server that is its own authority. They are of this
//! cluster alone; the authority's key is thrown away.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Writes `ca.crt`, `tls.crt` and `tls.key`.
pub(crate) fn write(dir: &Path) {
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new([]).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    authority.distinguished_name.push(DnType::CommonName, "test cluster");
    let certificate = authority.self_signed(&authority_key).expect("an authority");
    let authority = Issuer::new(authority, authority_key);

    let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
    let mut server = CertificateParams::new(names).expect("names");
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    let server_key = KeyPair::generate().expect("a key");
    let server = server.signed_by(&server_key, &authority).expect("a certificate");

    for (name, text) in [
        ("ca.crt", certificate.pem()),
        ("tls.crt", server.pem()),
        ("tls.key", server_key.serialize_pem()),
    ] {
        fs::write(dir.join(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
