//! Lists of ids and tokens. Their numbers and strings are made once a tokenizer and shared by all
//! lists: an entry costs a reference, not an object.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyInt, PyList, PyString};

use crate::tokenizer::{Place, Tokenizer};

/// The ids and pieces of a vocabulary as Python objects, made when they are first asked for.
#[derive(Default)]
pub(super) struct Objects {
    ids: PyOnceLock<Vec<Py<PyInt>>>,
    pieces: PyOnceLock<Vec<PyOnceLock<Py<PyString>>>>,
}

impl Objects {
    fn ids(&self, py: Python<'_>, tokenizer: &Tokenizer) -> &[Py<PyInt>] {
        self.ids.get_or_init(py, || {
            // Numbers of 64 bits convert without an error.
            let number = |id: usize| match (id as u64).into_pyobject(py) {
                Ok(number) => number.unbind(),
                Err(never) => match never {},
            };
            (0..tokenizer.vocab_size()).map(number).collect()
        })
    }

    fn piece<'py>(&self, py: Python<'py>, tokenizer: &Tokenizer, id: u32) -> Bound<'py, PyString> {
        let make = || (0..tokenizer.vocab_size()).map(|_| PyOnceLock::new()).collect::<Vec<_>>();
        let text = || PyString::new(py, tokenizer.id_to_piece(id).unwrap_or_default());
        match self.pieces.get_or_init(py, make).get(id as usize) {
            Some(piece) => piece.get_or_init(py, || text().unbind()).bind(py).clone(),
            None => text(),
        }
    }

    /// A list of ids.
    pub(super) fn list<'py>(
        &self,
        py: Python<'py>,
        tokenizer: &Tokenizer,
        ids: &[u32],
    ) -> PyResult<Bound<'py, PyList>> {
        let numbers = self.ids(py, tokenizer);
        let items = ids.iter().map(|id| numbers[*id as usize].as_ptr());
        // SAFETY: the pointers are of objects that `numbers` keeps alive.
        unsafe { list_of(py, items) }
    }

    /// A list of pieces; `others` are those of unknown tokens, by number.
    pub(super) fn pieces<'py>(
        &self,
        py: Python<'py>,
        tokenizer: &Tokenizer,
        ids: &[u32],
        others: &[(usize, String)],
    ) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, Pieces { objects: self, py, tokenizer, ids: ids.iter().enumerate(), others })
    }

    /// A list of `(id, piece, begin, end)`.
    pub(super) fn tokens<'py>(
        &self,
        py: Python<'py>,
        tokenizer: &Tokenizer,
        (ids, places): (&[u32], &[Place]),
        others: &[(usize, String)],
    ) -> PyResult<Bound<'py, PyList>> {
        let numbers = self.ids(py, tokenizer);
        let pieces = Pieces { objects: self, py, tokenizer, ids: ids.iter().enumerate(), others };
        let mut last = (-1, py.None().into_bound(py));
        let mut place = |at: i64| -> PyResult<Bound<'py, PyAny>> {
            // A token mostly begins where the one before it ends.
            if last.0 != at {
                last = (at, at.into_pyobject(py)?.into_any());
            }
            Ok(last.1.clone())
        };
        let tokens = ids.iter().zip(places).zip(pieces).map(|((id, [begin, end]), piece)| {
            (numbers[*id as usize].bind(py).clone(), piece, place(*begin)?, place(*end)?).into_pyobject(py)
        });
        let tokens = tokens.collect::<PyResult<Vec<_>>>()?;
        PyList::new(py, tokens)
    }
}

/// The pieces of ids, one after the other.
struct Pieces<'a, 'py> {
    objects: &'a Objects,
    py: Python<'py>,
    tokenizer: &'a Tokenizer,
    ids: std::iter::Enumerate<std::slice::Iter<'a, u32>>,
    others: &'a [(usize, String)],
}

impl<'py> Iterator for Pieces<'_, 'py> {
    type Item = Bound<'py, PyString>;

    fn next(&mut self) -> Option<Self::Item> {
        let (number, id) = self.ids.next()?;
        match self.others {
            [(first, text), rest @ ..] if *first == number => {
                self.others = rest;
                Some(PyString::new(self.py, text))
            }
            _ => Some(self.objects.piece(self.py, self.tokenizer, *id)),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ids.size_hint()
    }
}

impl ExactSizeIterator for Pieces<'_, '_> {}

/// A list of new references to objects.
///
/// # Safety
/// Each item points to an object that is alive.
unsafe fn list_of<'py>(
    py: Python<'py>,
    items: impl ExactSizeIterator<Item = *mut ffi::PyObject>,
) -> PyResult<Bound<'py, PyList>> {
    // A slice is never longer than the largest isize.
    let length = items.len() as ffi::Py_ssize_t;
    // SAFETY: the interpreter is attached; a null pointer comes with an exception, which is taken.
    let list = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyList_New(length))?.cast_into_unchecked::<PyList>() };
    for (at, item) in (0..length).zip(items) {
        // SAFETY: the object is alive, as the caller promises; `PyList_SetItem` takes over the
        // reference that `Py_INCREF` adds. The list is new, nobody else has seen it, and `at` is
        // one of its places, so that it cannot fail.
        unsafe {
            ffi::Py_INCREF(item);
            ffi::PyList_SetItem(list.as_ptr(), at, item);
        }
    }
    Ok(list)
}
