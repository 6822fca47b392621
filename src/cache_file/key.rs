//! Keys for the signatures of cache files and of entries of a remote store (ed25519).

use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::error::{Error, Result};

/// The beginning of a public key's text.
const PUBLIC: &str = "ed25519:";
/// The beginning of a secret key's text.
const SECRET: &str = "ed25519-secret:";
/// The kind of text that is signed. What is signed begins with it, so that the signature is valid for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The manifest of a cache file.
    CacheFile,
    /// The manifest of a file of dumps.
    CacheDumps,
    /// The manifest or the head of an entry of a remote store.
    RemoteEntry,
}

impl Purpose {
    fn text(self) -> &'static [u8] {
        match self {
            Purpose::CacheFile => b"pgstencil cache file\0",
            Purpose::CacheDumps => b"pgstencil cache dumps\0",
            Purpose::RemoteEntry => b"pgstencil remote entry\0",
        }
    }
}

/// A key that may sign.
#[derive(Clone)]
pub(crate) struct SecretKey(SigningKey);

/// A key whose signatures count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey(VerifyingKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", hex(self.0.as_bytes()))
    }
}

impl SecretKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// The system provides no random numbers.
    pub(crate) fn random() -> Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|e| Error::failed("the system provides no random numbers").caused_by(e))?;
        Ok(SecretKey(SigningKey::from_bytes(&seed)))
    }

    /// Reads a key as [`SecretKey::reveal`] writes it.
    ///
    /// # Errors
    /// `Usage`. The message does not contain the text.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let seed = text.trim().strip_prefix(SECRET).and_then(bytes::<32>);
        let seed = seed.ok_or_else(|| {
            Error::usage("this is not a signing key")
                .detail(format!("a signing key is `{SECRET}` and 64 hexadecimal digits"))
                .hint("make one with `pgstencil cache new-key FILE`")
        })?;
        Ok(SecretKey(SigningKey::from_bytes(&seed)))
    }

    /// Returns the key as text.
    pub(crate) fn reveal(&self) -> String {
        format!("{SECRET}{}", hex(self.0.as_bytes()))
    }

    /// Returns the public key that belongs to it.
    pub(crate) fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs a text, for this purpose only.
    pub(crate) fn sign(&self, purpose: Purpose, text: &[u8]) -> String {
        hex(&self.0.sign(&[purpose.text(), text].concat()).to_bytes())
    }
}

impl PublicKey {
    /// Reads a key as `Display` writes it.
    ///
    /// # Errors
    /// `Usage`
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let key = text.trim().strip_prefix(PUBLIC).and_then(bytes::<32>);
        let key = key.and_then(|key| VerifyingKey::from_bytes(&key).ok());
        key.map(PublicKey).ok_or_else(|| {
            let error = Error::usage("this is not a public key");
            let error = match text.trim().starts_with(SECRET) {
                true => error.detail("it is a signing key, which must stay secret"),
                false => error.detail(format!("a public key is `{PUBLIC}` and 64 hexadecimal digits")),
            };
            error.hint("`pgstencil cache new-key FILE` prints the public key of a new signing key")
        })
    }

    /// Returns whether the signature is that of this key, text and purpose.
    pub(crate) fn verifies(&self, purpose: Purpose, text: &[u8], signature: &str) -> bool {
        bytes::<64>(signature).is_some_and(|signature| {
            let signature = Signature::from_bytes(&signature);
            self.0.verify_strict(&[purpose.text(), text].concat(), &signature).is_ok()
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn bytes<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    if text.len() != 2 * LENGTH || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; LENGTH];
    for (byte, at) in bytes.iter_mut().zip((0..text.len()).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_sign() {
        let key = SecretKey::random().unwrap();
        let again = SecretKey::parse(&format!("{}\n", key.reveal())).unwrap();
        let public = PublicKey::parse(&again.public().to_string()).unwrap();
        assert_eq!(public, key.public());
        let purpose = Purpose::CacheFile;
        let signature = key.sign(purpose, b"text");
        assert!(public.verifies(purpose, b"text", &signature));
        assert!(!public.verifies(Purpose::RemoteEntry, b"text", &signature));
        assert!(!public.verifies(purpose, b"texT", &signature));
        assert!(!SecretKey::random().unwrap().public().verifies(purpose, b"text", &signature));
        assert!(
            !public.verifies(purpose, b"text", "00") && !public.verifies(purpose, b"text", &"0".repeat(128))
        );
        assert!(!format!("{key:?}").contains(&key.reveal()[SECRET.len()..]));
    }

    #[test]
    fn other_texts_are_no_keys_and_not_shown() {
        let secret = SecretKey::random().unwrap().reveal();
        let error = PublicKey::parse(&secret).unwrap_err();
        assert!(!format!("{error:?}").contains(&secret[SECRET.len()..]), "{error:?}");
        for text in ["", "ed25519:", "ed25519:00", "ed25519-secret:zz", "x"] {
            assert!(PublicKey::parse(text).is_err() && SecretKey::parse(text).is_err(), "{text}");
        }
    }
}
