//! Columns with their own types: words of an enum, fingerprints, times and sizes. Reading a value that no version
//! of pgstencil writes is an error.

use std::time::Duration;

use crate::config::Extend;
use crate::names::Fingerprint;
use crate::pg::sql::CopyStrategy;
use crate::quantity::{Bytes, Millis, Seconds};

/// Declares an enum whose values a text column holds as words.
macro_rules! words {
    ($(#[$about:meta])* pub(crate) enum $name:ident { $($(#[$note:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum $name {
            $($(#[$note])* $variant,)+
        }

        impl $name {
            /// Returns the word for it in the registry, in JSON and in tables.
            pub(crate) fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }

            /// Returns the value of a word; `None` if the word has no value.
            pub(crate) fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some($name::$variant),)+
                    _ => None,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        $crate::registry::column::text_column!($name, $name::from_word, $name::to_string);
    };
}

/// Lets a type be stored in a text column. `$read` parses the text, if it is valid; `$write` converts the value to
/// text.
macro_rules! text_column {
    ($type:ty, $read:expr, $write:expr) => {
        impl sqlx::Type<sqlx::Postgres> for $type {
            fn type_info() -> sqlx::postgres::PgTypeInfo {
                <&str as sqlx::Type<sqlx::Postgres>>::type_info()
            }

            fn compatible(column: &sqlx::postgres::PgTypeInfo) -> bool {
                <&str as sqlx::Type<sqlx::Postgres>>::compatible(column)
            }
        }

        impl sqlx::Decode<'_, sqlx::Postgres> for $type {
            fn decode(
                value: sqlx::postgres::PgValueRef<'_>,
            ) -> std::result::Result<Self, sqlx::error::BoxDynError> {
                let read: fn(&str) -> Option<$type> = $read;
                let text = <&str as sqlx::Decode<sqlx::Postgres>>::decode(value)?;
                let unknown = || format!("`{text}` is not a valid {}", stringify!($type));
                read(text).ok_or_else(|| unknown().into())
            }
        }

        impl $crate::pg::sql::Literal for $type {
            fn literal(&self) -> String {
                $crate::pg::sql::quote_literal(&$write(self))
            }
        }
    };
}

/// Lets a type be stored in a numeric column.
macro_rules! number_column {
    ($type:ty as $number:ty, $read:expr, $write:expr) => {
        impl sqlx::Type<sqlx::Postgres> for $type {
            fn type_info() -> sqlx::postgres::PgTypeInfo {
                <$number as sqlx::Type<sqlx::Postgres>>::type_info()
            }
        }

        impl sqlx::Decode<'_, sqlx::Postgres> for $type {
            fn decode(
                value: sqlx::postgres::PgValueRef<'_>,
            ) -> std::result::Result<Self, sqlx::error::BoxDynError> {
                let number = <$number as sqlx::Decode<sqlx::Postgres>>::decode(value)?;
                let read: fn($number) -> std::result::Result<$type, std::num::TryFromIntError> = $read;
                Ok(read(number)?)
            }
        }

        impl $crate::pg::sql::Literal for $type {
            fn literal(&self) -> String {
                let write: fn(&$type) -> $number = $write;
                $crate::pg::sql::Literal::literal(&write(self))
            }
        }
    };
}

pub(crate) use {text_column, words};

number_column!(Bytes as i64, |bytes| Ok(Bytes::new(u64::try_from(bytes)?)), |bytes| bytes.signed());
number_column!(Seconds as f64, |seconds| Ok(Seconds(seconds)), |seconds| seconds.0);
number_column!(
    Millis as i64,
    |millis| Ok(Millis::from(Duration::from_millis(u64::try_from(millis)?))),
    |millis| millis.signed()
);

text_column!(Fingerprint, |text| text.parse().ok(), Fingerprint::to_string);
text_column!(
    Extend,
    |word| {
        let mut all = [Extend::Append, Extend::Never, Extend::Always].into_iter();
        all.find(|extend| extend.as_str() == word)
    },
    |extend: &Extend| extend.as_str()
);
text_column!(CopyStrategy, CopyStrategy::from_word, |strategy: &CopyStrategy| strategy.as_str());
