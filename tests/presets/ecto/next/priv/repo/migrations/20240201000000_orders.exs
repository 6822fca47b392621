defmodule Shop.Repo.Migrations.Orders do
  use Ecto.Migration
  def change, do: create(table(:orders))
end
