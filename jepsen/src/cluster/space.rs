//! Threads of this process inside a network namespace. Sockets belong to the namespace of the thread that makes them, so a
//! runtime whose threads have all entered it is a host of its own, with this process's memory and clock.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Handle, Runtime};

/// A tokio runtime in a namespace.
#[derive(Debug)]
pub struct Space {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Space {
    /// Starts `workers` threads there.
    pub fn enter(namespace: &Path, workers: usize) -> Result<Space> {
        let opened = File::open(namespace).with_context(|| namespace.display().to_string())?;
        let door = Arc::new(opened);
        let runtime = Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .thread_name("client")
            .on_thread_start(move || {
                // A thread that stayed outside would find no address of the run: calls fail, nothing worse.
                if let Err(error) = move_into_link_name_space(door.as_fd(), Some(LinkNameSpaceType::Network))
                {
                    eprintln!("jepsen: a thread cannot enter its network namespace: {error}");
                }
            })
            .build()?;
        let space = Space { runtime: Some(runtime) };
        let entered = space.run(async { std::fs::metadata("/proc/thread-self/ns/net") });
        ensure!(
            is_same(&entered?, &std::fs::metadata(namespace)?),
            "{} was not entered",
            namespace.display()
        );
        Ok(space)
    }

    pub fn handle(&self) -> &Handle {
        self.runtime.as_ref().map(Runtime::handle).expect("it is taken only in drop")
    }

    /// Runs a future on the threads inside and waits for it. Not to be called on them.
    pub fn run<F>(&self, future: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        // Not `block_on` of the future itself: that polls it on the caller's thread, which is outside.
        let task = self.handle().spawn(future);
        self.handle().block_on(task).expect("the task neither panics nor is it cancelled")
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Calls that still wait for an answer are of no use to anybody.
            runtime.shutdown_background();
        }
    }
}

fn is_same(one: &std::fs::Metadata, other: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    one.ino() == other.ino()
}
