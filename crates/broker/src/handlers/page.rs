//! Tables by pages: 21 and 201 as clients since 5.3.4 ask (protocol.md 8.2). Older ones want everything.

use wire::{BodyError, DataVersion, from_json};

/// Entries of one page at most, as in RocketMQ.
const PAGE_MAX: usize = 2_000;

/// Which part of a table is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Everything,
    From { first: usize, count: usize },
}

impl Page {
    /// `version` is the table's; a client that names another one begins anew.
    pub(crate) fn wanted(
        first: Option<i32>,
        count: Option<i32>,
        client: Option<&str>,
        version: DataVersion,
    ) -> Result<Page, BodyError> {
        if first.is_none() && count.is_none() && client.is_none() {
            return Ok(Page::Everything);
        }
        let same = match client {
            None | Some("") => true,
            Some(json) => from_json::<DataVersion>(json.as_bytes())? == version,
        };
        let first = if same { first.unwrap_or(0) } else { 0 };
        Ok(Page::From {
            first: usize::try_from(first).unwrap_or(0),
            count: count.and_then(|n| usize::try_from(n).ok()).unwrap_or(PAGE_MAX).min(PAGE_MAX),
        })
    }
}

/// The wanted part of `all`.
pub(crate) fn take<T>(all: &[T], page: Page) -> &[T] {
    match page {
        Page::Everything => all,
        Page::From { first, count } => {
            let rest = all.get(first..).unwrap_or_default();
            &rest[..rest.len().min(count)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let version = DataVersion { counter: 3, state_version: 1, timestamp: 9 };
        let all = [1, 2, 3, 4, 5];
        for (first, count, client, want) in [
            (None, None, None, &all[..]),
            (Some(0), Some(2), Some(""), &all[..2]),
            (Some(2), Some(2), Some(r#"{"counter":3,"stateVersion":1,"timestamp":9}"#), &all[2..4]),
            (Some(2), Some(2), Some(r#"{"counter":2,"stateVersion":1,"timestamp":9}"#), &all[..2]),
            (Some(4), Some(9), None, &all[4..]),
            (Some(9), Some(9), None, &[][..]),
            (Some(-1), Some(-1), None, &all[..]),
        ] {
            let page = Page::wanted(first, count, client, version).unwrap();
            assert_eq!(take(&all, page), want, "{first:?} {count:?} {client:?}");
        }
        assert!(Page::wanted(Some(0), None, Some("{"), version).is_err());
    }
}
