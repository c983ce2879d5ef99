//! What consumers want: subscriptions, with the compiled expression where they have one (filter/).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use wire::{StoredMessage, SubscriptionData};

use crate::filter::{Filter, FilterError};
use crate::hosted::lock;
use crate::limits::{FILTER_CACHE_BYTES, FILTERS_MAX};

/// What a consumer wants of a topic.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) subscription: Arc<SubscriptionData>,
    /// Of a subscription by expression.
    pub(crate) expression: Option<Arc<Filter>>,
}

impl Wish {
    /// A subscription by tags.
    pub(crate) fn by_tags(subscription: Arc<SubscriptionData>) -> Wish {
        Wish { subscription, expression: None }
    }

    /// Whether no message needs to be looked at.
    pub(crate) fn takes_everything(&self) -> bool {
        self.subscription.is_tag_type() && self.subscription.sub_string == wire::SUB_ALL
    }

    /// Whether a message with this tags code may be wanted.
    pub(crate) fn may_match(&self, tags_code: i64) -> bool {
        self.subscription.may_match(tags_code)
    }
}

/// Whether an expression says yes to a stored message.
pub(crate) fn accepts(filter: &Filter, record: &[u8]) -> bool {
    StoredMessage::parse(record).is_ok_and(|message| filter.matches(message.properties))
}

/// Whether an expression says yes to any of these, or there is no time to find out.
pub(crate) fn any_accepted<'a>(
    filter: &Filter,
    mut records: impl Iterator<Item = &'a [u8]>,
    until: Instant,
) -> bool {
    records.any(|record| Instant::now() >= until || accepts(filter, record))
}

/// Expressions that were compiled, by their text: every pull of a group has the same one.
#[derive(Default)]
pub(crate) struct Filters {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    filters: HashMap<Arc<str>, Arc<Filter>>,
    /// The oldest first.
    order: VecDeque<Arc<str>>,
    /// Of all texts; what they were compiled to is a few times as large.
    bytes: usize,
}

impl Filters {
    /// Compiles an expression, unless it is known. What was compiled long ago is forgotten when there are too many.
    pub(crate) fn get(&self, text: &str) -> Result<Arc<Filter>, FilterError> {
        if let Some(filter) = lock(&self.known).filters.get(text) {
            return Ok(filter.clone());
        }
        let filter = Arc::new(Filter::compile(text)?);
        let mut known = lock(&self.known);
        let text: Arc<str> = text.into();
        if known.filters.insert(text.clone(), filter.clone()).is_none() {
            known.bytes += text.len();
            known.order.push_back(text);
        }
        while known.filters.len() > FILTERS_MAX || known.bytes > FILTER_CACHE_BYTES {
            let Some(oldest) = known.order.pop_front() else { break };
            known.bytes -= oldest.len();
            known.filters.remove(&oldest);
        }
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_a_tag_subscription_takes_everything() {
        let tags = |text| Wish::by_tags(Arc::new(SubscriptionData::from_tags("T", text, 1).unwrap()));
        assert!(tags("*").takes_everything() && tags("").takes_everything());
        assert!(!tags("a").takes_everything());
        let expression = SubscriptionData::from_expression("T", "SQL92", "*", 1);
        assert!(!Wish::by_tags(Arc::new(expression)).takes_everything());
    }

    #[test]
    fn without_time_any_message_may_be_wanted() {
        let filter = Filter::compile("a = 1").unwrap();
        // None of them can be read, so none is wanted.
        let records = || [&b"x"[..]; 3].into_iter();
        let now = Instant::now();
        assert!(!any_accepted(&filter, records(), now + Duration::from_mins(1)));
        assert!(any_accepted(&filter, records(), now));
        assert!(!any_accepted(&filter, [].into_iter(), now));
    }

    #[test]
    fn compiled_once_and_not_for_ever() {
        let filters = Filters::default();
        let first = filters.get("a = 1").unwrap();
        assert!(Arc::ptr_eq(&first, &filters.get("a = 1").unwrap()));
        assert_eq!(filters.get("a =").unwrap_err().position, 3);
        for n in 0..FILTERS_MAX {
            filters.get(&format!("b = {n}")).unwrap();
        }
        assert_eq!(lock(&filters.known).filters.len(), FILTERS_MAX);
        assert!(!Arc::ptr_eq(&first, &filters.get("a = 1").unwrap()), "the oldest is forgotten");
        for n in 0..400 {
            filters.get(&format!("c = '{n:08000}'")).unwrap();
        }
        let known = lock(&filters.known);
        assert!(known.bytes <= FILTER_CACHE_BYTES && known.filters.len() == known.order.len());
        assert_eq!(known.bytes, known.order.iter().map(|text| text.len()).sum::<usize>());
    }
}
