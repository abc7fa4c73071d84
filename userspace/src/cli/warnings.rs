//! Warnings of a verb that prints JSON: part of the one document on standard error, and no lines between.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Keeps the warnings of a verb until it ends; one that goes on until it is told to end says each at once, a document a line.
#[derive(Debug, Clone, Default)]
pub struct Warnings {
    kept: Arc<Mutex<Vec<String>>>,
    at_once: bool,
}

impl Warnings {
    /// Those of a verb that is over soon, or of one that is not.
    pub fn new(at_once: bool) -> Self {
        Self { at_once, ..Self::default() }
    }

    /// Adds those that were kept to an error's document.
    pub fn beside(&self, error: &str) -> String {
        let kept = self.take();
        match serde_json::from_str(error) {
            Ok(Value::Object(mut document)) if !kept.is_empty() => {
                document.insert("warnings".to_owned(), kept.into());
                Value::Object(document).to_string()
            }
            _ => error.to_owned(),
        }
    }

    /// A document of those that were kept, if there are any.
    pub fn document(&self) -> Option<String> {
        let kept = self.take();
        (!kept.is_empty()).then(|| json!({ "warnings": kept }).to_string())
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() > Level::WARN {
            return;
        }
        let mut words = Words::default();
        event.record(&mut words);
        if self.at_once {
            eprintln!("{}", json!({ "warnings": [words.0] }));
        } else {
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(words.0);
        }
    }
}

/// An event's message.
#[derive(Default)]
struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
