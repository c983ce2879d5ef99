//! Which messages of a topic a consumer wants (remoting/protocol/filter/FilterAPI.java).

use wire::{SubscriptionData, java_string_hash};

use crate::error::ClientError;

/// A subscription expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    sql: bool,
    expression: String,
    /// Sorted, without repetition; empty: every message.
    tags: Vec<String>,
}

impl Filter {
    /// Every message.
    pub fn all() -> Filter {
        Filter { sql: false, expression: "*".into(), tags: Vec::new() }
    }

    /// Tags joined by `||`; empty or `*` is every message.
    pub fn tags(expression: &str) -> Result<Filter, ClientError> {
        if expression.is_empty() || expression == "*" {
            return Ok(Filter::all());
        }
        let mut tags: Vec<String> =
            expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
        if tags.is_empty() {
            return Err(ClientError::Refused(format!("the expression {expression:?} names no tag")));
        }
        tags.sort_unstable();
        tags.dedup();
        Ok(Filter { sql: false, expression: expression.into(), tags })
    }

    /// An SQL92 expression over properties, which the broker evaluates.
    pub fn sql(expression: &str) -> Filter {
        Filter { sql: true, expression: expression.into(), tags: Vec::new() }
    }

    pub fn is_sql(&self) -> bool {
        self.sql
    }

    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The kind as it travels.
    pub fn kind(&self) -> &'static str {
        if self.sql { "SQL92" } else { "TAG" }
    }

    /// As it travels in heartbeats; `version` grows with each change.
    pub(crate) fn subscription_data(&self, topic: &str, version: i64) -> SubscriptionData {
        SubscriptionData {
            class_filter_mode: false,
            code_set: self.tags.iter().map(|tag| java_string_hash(tag)).collect(),
            expression_type: self.kind().to_owned(),
            sub_string: self.expression.clone(),
            sub_version: version,
            tags_set: self.tags.iter().cloned().collect(),
            topic: topic.to_owned(),
        }
    }

    /// Brokers select tags by their hash; whether the tag itself is wanted is for the client to say.
    pub fn wants(&self, tag: Option<&str>) -> bool {
        self.tags.is_empty() || tag.is_some_and(|tag| self.tags.iter().any(|wanted| wanted == tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_as_in_java() {
        let check = |expression: &str, tags: &[&str]| {
            let filter = Filter::tags(expression).expect(expression);
            assert_eq!(filter.tags, tags, "{expression:?}");
            let wire = SubscriptionData::from_tags("t", expression, 5).expect(expression);
            assert_eq!(filter.subscription_data("t", 5), wire);
        };
        check("*", &[]);
        check("", &[]);
        check("a", &["a"]);
        check(" b ||a|| b || ", &["a", "b"]);
        check("a|b", &["a|b"]);
        assert!(Filter::tags(" || ").is_err());
        assert_eq!(Filter::tags("a || b").expect("two tags").expression(), "a || b");
    }

    #[test]
    fn the_exact_tag_decides() {
        // "Aa" and "BB" have one Java hash.
        let filter = Filter::tags("Aa").expect("a tag");
        assert_eq!(java_string_hash("Aa"), java_string_hash("BB"));
        assert!(filter.wants(Some("Aa")));
        assert!(!filter.wants(Some("BB")));
        assert!(!filter.wants(None));
        assert!(Filter::all().wants(None));
        assert!(Filter::sql("a > 1").wants(Some("x")));
    }
}
