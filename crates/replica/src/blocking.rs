//! Work that may wait for a disk: beside the workers of the consensus runtime, or where a simulated disk has it done.

use std::io;

use store::{Disk, Work};
use tokio::sync::oneshot;

/// Has `work` done and returns what it gave.
///
/// # Errors
/// It was interrupted: it panicked, or the runtime has ended.
pub(crate) async fn blocking<T: Send + 'static>(
    disk: &dyn Disk,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (tx, rx) = oneshot::channel();
    let work: Work = Box::new(move || {
        // Whoever asked may be gone.
        let _ = tx.send(work());
    });
    if let Some(work) = disk.take_work(work) {
        tokio::task::spawn_blocking(work);
    }
    rx.await.map_err(|_| io::Error::other("work beside the consensus runtime was interrupted"))
}
