//! What an operator may change while a nameserver runs (318), and sees (319): one table.
//!
//! Only what stands here can be changed from outside, and none of it is a path, a class or a command
//! (reliability.md S1; CVE-2023-37582 came of a list of what may *not* be changed). Changes last until
//! the process ends; configuration files are for what shall last longer.

use std::fmt::Write as _;

use crate::limits::SCAN_INTERVAL_MS;
use crate::routes::RouteOptions;

/// Why an update was refused; nothing was changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("{0} cannot be updated")]
    Forbidden(String),
    #[error("{key} cannot be {value}")]
    Bad { key: String, value: String },
}

trait Value: Sized + std::fmt::Display {
    fn read(text: &str) -> Option<Self>;
}

impl Value for bool {
    fn read(text: &str) -> Option<bool> {
        match text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }
}

impl Value for u64 {
    fn read(text: &str) -> Option<u64> {
        text.parse().ok()
    }
}

macro_rules! settings {
    ($( $(#[$doc:meta])* $key:literal => $field:ident: $type:ty = $default:expr, in $range:expr; )*) => {
        /// The settings, with RocketMQ's names on the wire and its defaults (NamesrvConfig.java).
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Settings {
            $( $(#[$doc])* pub $field: $type, )*
        }

        impl Default for Settings {
            fn default() -> Settings {
                Settings { $($field: $default,)* }
            }
        }

        impl Settings {
            fn set(&mut self, key: &str, value: &str) -> Result<(), SettingsError> {
                match key {
                    $($key => {
                        let bad = || SettingsError::Bad { key: key.to_owned(), value: shortened(value) };
                        let parsed = <$type as Value>::read(value.trim()).ok_or_else(bad)?;
                        if !$range.contains(&parsed) {
                            return Err(bad());
                        }
                        self.$field = parsed;
                    })*
                    _ => return Err(SettingsError::Forbidden(shortened(key))),
                }
                Ok(())
            }

            /// As `key=value` lines, by key.
            pub(crate) fn to_text(&self) -> String {
                let mut lines = vec![$(($key, self.$field.to_string()),)*];
                lines.sort_unstable();
                lines.into_iter().fold(String::new(), |mut text, (key, value)| {
                    // Writing into a String cannot fail.
                    let _ = writeln!(text, "{key}={value}");
                    text
                })
            }
        }
    };
}

const ANY: [bool; 2] = [true, false];

settings! {
    /// Routes carry the order of a topic from the key-value table.
    "orderMessageEnable" => order_message_enable: bool = false, in ANY;
    /// Registrations are answered with the key-value table of order topics.
    "returnOrderTopicConfigToBroker" => return_order_topic_config_to_broker: bool = true, in ANY;
    /// 206 is answered.
    "enableAllTopicList" => enable_all_topic_list: bool = true, in ANY;
    /// 224, 311, 312 and 313 are answered.
    "enableTopicList" => enable_topic_list: bool = true, in ANY;
    /// A group without a master shows its lowest id as one, where it agreed to that.
    "supportActingMaster" => support_acting_master: bool = false, in ANY;
    /// Topics that a registration does not name are removed.
    "deleteTopicWithBrokerRegistration" => delete_topic_with_broker_registration: bool = false, in ANY;
    /// Routes are given only after `wait_seconds_for_service`, when brokers have had time to register.
    "needWaitForService" => need_wait_for_service: bool = false, in ANY;
    "waitSecondsForService" => wait_seconds_for_service: u64 = 45, in (0..=3600);
    /// How often silent brokers are looked for.
    "scanNotActiveBrokerInterval" => scan_interval_ms: u64 = SCAN_INTERVAL_MS, in (100..=600_000);
}

impl Settings {
    pub(crate) fn route_options(&self) -> RouteOptions {
        RouteOptions {
            delete_topic_with_broker_registration: self.delete_topic_with_broker_registration,
            support_acting_master: self.support_acting_master,
        }
    }

    /// Applies a text of Java properties, all of it or nothing.
    pub(crate) fn updated(&self, text: &str) -> Result<Settings, SettingsError> {
        let mut settings = self.clone();
        for (key, value) in wire::java_properties::read(text) {
            settings.set(&key, &value)?;
        }
        Ok(settings)
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_can_be_changed_and_only_whole() {
        let before = Settings::default();
        let after = before.updated("orderMessageEnable=true\nwaitSecondsForService=7\n").unwrap();
        assert!(after.order_message_enable);
        assert_eq!(after.wait_seconds_for_service, 7);
        assert_eq!(before.updated("").unwrap(), before);
        for key in
            ["configStorePath", "kvConfigPath", "rocketmqHome", "configBlackList", "listenPort", "", "class"]
        {
            let text = format!("orderMessageEnable=true\n{key}=/tmp/x\n");
            assert_eq!(before.updated(&text), Err(SettingsError::Forbidden(key.into())), "{key}");
        }
        // An escape does not hide a key.
        assert_eq!(
            before.updated("config\\u0053torePath=/tmp/x"),
            Err(SettingsError::Forbidden("configStorePath".into()))
        );
        for text in ["enableTopicList=maybe", "waitSecondsForService=-1", "scanNotActiveBrokerInterval=1"] {
            assert!(matches!(before.updated(text), Err(SettingsError::Bad { .. })), "{text}");
        }
    }

    #[test]
    fn the_text_can_be_read_back() {
        let settings = Settings { order_message_enable: true, ..Settings::default() };
        let text = settings.to_text();
        assert!(
            text.starts_with("deleteTopicWithBrokerRegistration=false\nenableAllTopicList=true\n"),
            "{text}"
        );
        assert_eq!(Settings::default().updated(&text).unwrap(), settings);
    }
}
