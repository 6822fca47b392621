//! `pgstencil paths`

use crate::Result;
use crate::config::Config;
use crate::stencil::Endpoint;
use crate::wire::{PathsAnswer, ServerPlaces, VERSION};

use crate::cli::{App, background_log, escape};

pub(crate) async fn paths(app: &App) -> Result<u8> {
    let config = app.config_or_defaults()?;
    let mut logs = Vec::new();
    let server = match server(app, &config, &mut logs).await {
        Ok(server) => server,
        // The other paths are known.
        Err(e) => {
            app.printer.warn(&format!("cannot determine the server: {e}"));
            ServerPlaces::default()
        }
    };
    let answer = PathsAnswer {
        version: VERSION,
        config: config.file.is_file().then(|| config.file.display().to_string()),
        cache_dir: app.env.cache_dir().filter(|_| config.file_cache).map(|dir| dir.display().to_string()),
        state_dir: app.env.state_dir().ok().map(|dir| dir.display().to_string()),
        logs,
        background_log: background_log::file(&app.env).map(|log| log.display().to_string()),
        background_off_by: app.background_off_by(&config)?,
        server,
        registry: config.server.registry.to_string(),
    };
    if app.printer.json() {
        app.printer.object(&answer)?;
    } else {
        app.printer.text(&in_words(&answer))?;
    }
    Ok(0)
}

async fn server(app: &App, config: &Config, logs: &mut Vec<String>) -> Result<ServerPlaces> {
    if let Some((url, source)) = app.locator().named_server(config)? {
        return Ok(ServerPlaces {
            place: Some(Endpoint::new(url, &app.locator().defaults()?)?.place()),
            named_by: Some(source),
            ..ServerPlaces::default()
        });
    }
    let places = app.private_server(&config.server)?.places().await?;
    logs.extend(places.log_file.iter().map(|log| log.display().to_string()));
    Ok(ServerPlaces::from(&places))
}

fn in_words(paths: &PathsAnswer) -> String {
    let server = &paths.server;
    let mut lines = vec![
        ("config", paths.config.clone().unwrap_or_else(|| "none found".to_owned())),
        ("state", paths.state_dir.clone().unwrap_or_else(|| "none: HOME is not set".to_owned())),
    ];
    lines.extend(paths.cache_dir.iter().map(|dir| ("cache", dir.clone())));
    lines.push((
        "background",
        match &paths.background_off_by {
            Some(what) => format!("off, by {what}"),
            None => "on".to_owned(),
        },
    ));
    lines.extend(paths.logs.iter().chain(&paths.background_log).map(|log| ("log", log.clone())));
    let place = server.place.as_deref();
    lines.push((
        "server",
        match (server.private, &server.named_by) {
            (true, _) => match place {
                Some(place) => format!("the private server at {place}"),
                None => "the private server, not started yet".to_owned(),
            },
            (false, Some(source)) => format!("{}, named by {source}", place.unwrap_or("?")),
            (false, None) => "not known".to_owned(),
        },
    ));
    for (name, folder) in
        [("clusters", &server.directory), ("data", &server.data_dir), ("socket", &server.socket_dir)]
    {
        lines.extend(folder.clone().map(|folder| (name, folder)));
    }
    lines.push(("registry", format!("database `{}` on that server", paths.registry)));
    lines.into_iter().map(|(name, what)| format!("{name:10} {}\n", escape::line(&what))).collect()
}
