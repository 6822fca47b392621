//! What went wrong with an operation on a store: the crate's errors hide the answer of the store, so it is noted on its
//! way.

use std::cell::RefCell;
use std::error::Error as StdError;

use async_trait::async_trait;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::{ClientOptions, Error};

use crate::remote::store::StoreError;

/// The answer to the last request of an operation that was not answered well.
#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    reason: &'static str,
    /// The provider's word for what is wrong, such as `AccessDenied`.
    code: Option<String>,
}

tokio::task_local! {
    /// What the requests of the running operation met. The errors of the crate hide it.
    static MET: RefCell<(Option<Answer>, bool)>;
}

/// Notes what the requests of an operation meet, in [`MET`].
#[derive(Debug)]
pub(super) struct Observed;

impl HttpConnector for Observed {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Observer(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct Observer(HttpClient);

#[async_trait]
impl HttpService for Observer {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // Metadata services have these addresses on all clouds.
        let host = request.uri().host().unwrap_or_default();
        let of_machine =
            host.starts_with("169.254.") || host.starts_with("metadata") || host.starts_with("[fd00:");
        let note = |answer| {
            // Requests of other tasks, such as those that the crate begins by itself, are not noted.
            let _ = MET.try_with(|met| *met.borrow_mut() = (answer, of_machine));
        };
        note(None);
        let response = self.0.execute(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let (parts, body) = response.into_parts();
        let body = body.bytes().await?;
        note(Some(Answer {
            status: status.as_u16(),
            reason: status.canonical_reason().unwrap_or("an unknown status"),
            code: code(&String::from_utf8_lossy(&body)).map(str::to_owned),
        }));
        Ok(HttpResponse::from_parts(parts, body.into()))
    }
}

/// A failed operation.
pub(super) struct Failed {
    pub(super) error: Error,
    answer: Option<Answer>,
    /// Whether the last request was one for credentials.
    of_machine: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed { error, answer: None, of_machine: false }
    }
}

/// Runs an operation, and remembers what its last request met.
pub(super) async fn observed<T>(
    operation: impl Future<Output = object_store::Result<T>>,
) -> Result<T, Failed> {
    MET.scope(RefCell::default(), async {
        operation.await.map_err(|error| {
            let (answer, of_machine) = MET.with(RefCell::take);
            Failed { error, answer, of_machine }
        })
    })
    .await
}

impl Failed {
    pub(super) fn status(&self) -> Option<u16> {
        Some(self.answer.as_ref()?.status)
    }

    /// Whether there is no such object, though there is the bucket or container.
    pub(super) fn is_missing(&self) -> bool {
        let code = self.answer.as_ref().and_then(|answer| answer.code.as_deref());
        matches!(self.error, Error::NotFound { .. })
            && !matches!(code, Some("NoSuchBucket" | "ContainerNotFound"))
    }

    /// Whether the store says that it does not know the condition of a write.
    pub(super) fn knows_no_condition(&self) -> bool {
        matches!(self.error, Error::NotImplemented { .. }) || self.status() == Some(501)
    }

    /// Says what went wrong, without the URL of the request, which may hold a signature.
    pub(super) fn describe(&self) -> StoreError {
        let causes =
            || std::iter::successors(Some(&self.error as &(dyn StdError + 'static)), |e| (*e).source());
        let last = causes().last().map(|cause| one_line(&cause.to_string())).unwrap_or_default();
        if self.of_machine {
            return StoreError::down(
                "there are no credentials: no variable holds any, and the machine has none".into(),
            );
        }
        if let Some(Answer { status, reason, code, .. }) = &self.answer {
            let code = code.as_deref().map(|code| format!(" ({code})")).unwrap_or_default();
            let words = format!("it answered {status} {reason}{code}");
            return match matches!(status, 408 | 429 | 500..) {
                true => StoreError::down(words),
                false => StoreError::refused(words),
            };
        }
        StoreError::down(
            match causes().find_map(|cause| cause.downcast_ref::<HttpError>()).map(HttpError::kind) {
                Some(HttpErrorKind::Timeout) => "it did not answer in time".into(),
                Some(HttpErrorKind::Connect) => format!("no connection: {last}"),
                Some(_) => format!("the connection failed: {last}"),
                None => last,
            },
        )
    }
}

/// Returns the provider's word for what is wrong.
fn code(body: &str) -> Option<&str> {
    let (_, rest) = body.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let is_word = !code.is_empty() && code.len() <= 60 && code.bytes().all(|b| b.is_ascii_alphanumeric());
    is_word.then_some(code)
}

/// Returns text of another program without its queries and line breaks, which could be long.
fn one_line(text: &str) -> String {
    let words = text.split_whitespace().map(|word| word.split_once('?').map_or(word, |(before, _)| before));
    words.collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_an_answer_is_a_word() {
        assert_eq!(
            code("<Error><Code>AccessDenied</Code><Message>no</Message></Error>"),
            Some("AccessDenied")
        );
        assert_eq!(code("<Code>two words</Code>"), None);
        assert_eq!(code("<html>"), None);
    }

    #[test]
    fn a_text_of_another_program_is_one_line_without_queries() {
        assert_eq!(one_line("see https://x/y?sig=abc\nnow"), "see https://x/y now");
    }
}
