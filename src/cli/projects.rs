//! `keydesk project`: named sets of provider keys.

use clap::Subcommand;

use super::{desk::Desk, failure::Failure, output};
use crate::model::{Page, ProjectName};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a project
    #[command(after_help = "Example:\n  keydesk project add search")]
    Add {
        /// The project's name
        name: ProjectName,
    },
    /// List the projects
    #[command(after_help = "Example:\n  keydesk project list")]
    List,
    /// Delete a project that has neither keys nor grants
    #[command(after_help = "Example:\n  keydesk project delete search")]
    Delete {
        /// The project's name
        name: ProjectName,
    },
}

pub(super) async fn run(desk: &Desk, command: Command) -> Result<(), Failure> {
    let Desk { app, caller, out } = desk;
    match command {
        Command::Add { name } => {
            let project = app.create_project(caller, name).await?;
            out.object(&project, format_args!("project {} is made", project.name))
        }
        Command::List => {
            let projects = app.projects(caller, &Page::all()).await?.items;
            out.list(&projects, ["name", "created (utc)"], |project| {
                [project.name.to_string(), output::minute(project.created_at)]
            })
        }
        Command::Delete { name } => {
            app.delete_project(caller, &name).await?;
            out.done(format_args!("project {name} is deleted"))
        }
    }
}
