//! Panics of the code under simulation: tokio keeps them from this thread, and none is to pass unseen.

use std::sync::{Mutex, PoisonError};

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes every panic from now on, and says it as usual.
pub(crate) fn watch() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let what = info.to_string().replace('\n', " ");
        PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        usual(info);
    }));
}

/// Those since the last call.
pub(crate) fn take() -> Vec<String> {
    std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner))
}
