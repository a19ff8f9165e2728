//! Which adapter changes products now. Models belong to one thread, and a step of an answer is made at a
//! time, so what a step is made with need not go through every layer.

use std::{cell::RefCell, rc::Rc};

use super::Adapter;

thread_local! {
    static ACTIVE: RefCell<Option<Rc<Adapter>>> = const { RefCell::new(None) };
}

/// Does `work` with products as `adapter` changes them, or as they are.
pub(crate) fn with<T>(adapter: Option<&Rc<Adapter>>, work: impl FnOnce() -> T) -> T {
    // Also after a panic.
    let _before = Before(ACTIVE.replace(adapter.cloned()));
    work()
}

/// What was active before.
struct Before(Option<Rc<Adapter>>);

impl Drop for Before {
    fn drop(&mut self) {
        ACTIVE.set(self.0.take());
    }
}

/// Returns the adapter that changes products now.
pub(crate) fn active() -> Option<Rc<Adapter>> {
    ACTIVE.with_borrow(Clone::clone)
}

/// Whether there is one: then kernels that do more than a product have to be left.
pub(crate) fn is_active() -> bool {
    ACTIVE.with_borrow(Option::is_some)
}
