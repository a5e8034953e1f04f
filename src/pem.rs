//! Certificates and keys, as PEM files hold them.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// All certificates of a file.
///
/// # Errors
/// In words, which file cannot be read and why not.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(path, &error))
}

/// The private key of a file.
///
/// # Errors
/// In words, which file cannot be read and why not.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unreadable(path, &error))
}

/// The authorities of a file.
///
/// # Errors
/// In words, which file cannot be read and why not.
pub fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let all = certificates(path)?;
    if all.is_empty() {
        return Err(format!("{} holds no certificate", path.display()));
    }
    for certificate in all {
        roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(roots)
}

/// What changes with a file: when it was written, and how long it is.
pub type Stamp = (SystemTime, u64);

/// How files are now; `None` for a file that cannot be seen.
pub fn stamps<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.modified().ok()?, file.len()))
    };
    paths.into_iter().map(stamp).collect()
}

fn unreadable(path: &Path, error: &Error) -> String {
    format!("cannot read {}: {error}", path.display())
}
