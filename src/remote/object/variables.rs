//! The provider's environment variables, which hold the settings and credentials of a store.

use crate::env::{self, Environment};
use crate::remote::place::Kind;

/// Shortest value that is looked for in an error: a shorter one would also hide words.
const SECRET: usize = 6;

/// The variables of the provider. `Debug` shows no value.
pub(super) struct Variables(Vec<(String, String)>);

impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Variables {
    pub(super) fn read(kind: Kind, env: &Environment) -> Self {
        let of_provider = |name: &str| match kind {
            Kind::S3 => name.starts_with("AWS_"),
            Kind::Google => name.starts_with("GOOGLE_"),
            // The second one is set by App Service.
            Kind::Azure => name.starts_with("AZURE_") || name == "IDENTITY_ENDPOINT",
            Kind::Http => name == env::REMOTE_TOKEN,
        };
        let text = |(name, value): (&std::ffi::OsStr, &std::ffi::OsStr)| {
            Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()))
        };
        let all = env.iter().filter_map(text);
        Variables(all.filter(|(name, value)| of_provider(name) && !value.is_empty()).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn any(&self, names: &[&str]) -> Option<String> {
        names.iter().find(|name| self.get(name).is_some()).map(ToString::to_string)
    }

    /// Names and values as the builders take them.
    pub(super) fn keys(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
    }

    /// Hides all values that may be secret.
    pub(super) fn redact(&self, text: String) -> String {
        let secret = self.0.iter().filter(|(name, value)| env::looks_secret(name) && value.len() >= SECRET);
        secret.fold(text, |text, (_, value)| text.replace(value, "***"))
    }
}

pub(super) fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "y" | "on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_never_shown() {
        let env: Environment =
            [("AWS_SECRET_ACCESS_KEY", "hush-hush"), ("AWS_REGION", "hush"), ("OTHER", "x")]
                .into_iter()
                .collect();
        let variables = Variables::read(Kind::S3, &env);
        assert_eq!(variables.redact("key hush-hush in hush".into()), "key *** in hush");
        assert!(!format!("{variables:?}").contains("hush"));
    }
}
