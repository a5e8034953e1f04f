//! JWTs of an identity, as Nomad and Kubernetes sign them: ES256.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use consul_redis::clock::wall;
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};

/// Signs with a key of its own.
pub struct Signer(KeyPair);

impl Signer {
    pub fn new() -> Self {
        Self(KeyPair::generate().expect("a key"))
    }

    /// What an auth method has in `JWTValidationPubKeys`.
    pub fn public_key(&self) -> String {
        self.0.public_key_pem()
    }

    pub fn sign(&self, claims: &Value) -> String {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let head = json!({"alg": "ES256", "typ": "JWT"}).to_string();
        let signed =
            format!("{}.{}", encode(head.as_bytes()), encode(claims.to_string().as_bytes()));
        let signature = self.0.sign(signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", encode(&fixed(&signature)))
    }
}

/// Two numbers of 32 bytes each, where DER has them in a sequence, without leading zeros or with one too many.
fn fixed(der: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut rest = &der[2..];
    while let [2, len, more @ ..] = rest {
        let (number, after) = more.split_at(usize::from(*len));
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros..];
        all.extend(std::iter::repeat_n(0, 32 - number.len()));
        all.extend_from_slice(number);
        rest = after;
    }
    assert_eq!(all.len(), 64, "{der:?}");
    all
}

/// Of this subject, for Consul; over in so many seconds.
pub fn claims(subject: &str, for_s: i64) -> Value {
    let now = wall().as_second();
    let begun = now.min(now + for_s) - 5;
    json!({"iss": "lab", "aud": "consul", "sub": subject, "iat": begun, "nbf": begun, "exp": now + for_s})
}
