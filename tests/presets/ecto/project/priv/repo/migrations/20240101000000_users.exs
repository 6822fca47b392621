defmodule Shop.Repo.Migrations.Users do
  use Ecto.Migration
  def change, do: create(table(:users))
end
