//! Client languages and the version ordinals that RocketMQ sends with every command.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The version this crate claims in every command: `V5_3_3`.
pub const VERSION: i32 = version::V5_3_3;

/// Version ordinals at which behaviour changes (MQVersion).
pub mod version {
    pub const V3_0_11: i32 = 37;
    pub const V3_4_9: i32 = 121;
    pub const V4_1_0_SNAPSHOT: i32 = 232;
    pub const V4_9_3: i32 = 399;
    pub const V4_9_4: i32 = 401;
    pub const V5_0_0: i32 = 413;
    pub const V5_3_1: i32 = 475;
    pub const V5_3_3: i32 = 479;
}

macro_rules! languages {
    ($first:ident = $first_code:literal $first_name:literal, $($variant:ident = $code:literal $name:literal,)*) => {
        /// The language of a client; what is not listed reads as `Other`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Language {
            #[default]
            $first = $first_code,
            $($variant = $code,)*
        }

        impl Language {
            /// Every language, by code.
            pub const ALL: &[Language] = &[Language::$first, $(Language::$variant,)*];

            /// The byte of the ROCKETMQ header.
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// The enum name of the JSON header.
            pub const fn name(self) -> &'static str {
                match self {
                    Language::$first => $first_name,
                    $(Language::$variant => $name,)*
                }
            }

            pub fn from_code(code: u8) -> Language {
                match code {
                    $first_code => Language::$first,
                    $($code => Language::$variant,)*
                    _ => Language::Other,
                }
            }

            pub fn from_name(name: &str) -> Language {
                match name {
                    $first_name => Language::$first,
                    $($name => Language::$variant,)*
                    _ => Language::Other,
                }
            }
        }
    };
}

languages! {
    Java = 0 "JAVA",
    Cpp = 1 "CPP",
    Dotnet = 2 "DOTNET",
    Python = 3 "PYTHON",
    Delphi = 4 "DELPHI",
    Erlang = 5 "ERLANG",
    Ruby = 6 "RUBY",
    Other = 7 "OTHER",
    Http = 8 "HTTP",
    Go = 9 "GO",
    Php = 10 "PHP",
    Oms = 11 "OMS",
    Rust = 12 "RUST",
    NodeJs = 13 "NODE_JS",
}

impl std::fmt::Display for Language {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Language {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Language {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Ok(Language::from_name(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_round_trip() {
        for &language in Language::ALL {
            assert_eq!(Language::from_code(language.code()), language);
            assert_eq!(Language::from_name(language.name()), language);
        }
        assert_eq!(Language::from_code(200), Language::Other);
        assert_eq!(Language::from_name("COBOL"), Language::Other);
    }
}
