defmodule Shop.MixProject do
  defp deps, do: [{:ecto_sql, "~> 3.10"}, {:postgrex, ">= 0.0.0"}]
end
